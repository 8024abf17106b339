"""The base before its training: a tokenizer that keeps every text, and weights that copy from the beginning."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlora_plugins.nano.recipe import blank, corpus
from memlora_plugins.nano.recipe.dialogue import Author
from memlora_plugins.nano.recipe.relations import RELATIONS, pools

names = st.from_regex("[A-Z][a-z]{2,9}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blank")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    lessons = corpus.samples(Author(RELATIONS, pools(), 7), "extraction", 400, prefix="e")
    return blank.make_tokenizer((text for one in lessons for text in (one.messages[-1].content, one.reply)), folder)


@pytest.fixture(scope="module")
def model(tokenizer: Any, folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    blank.new_model(tokenizer, folder, seed=7)
    return AutoModelForCausalLM.from_pretrained(folder)


@given(texts)
@settings(deadline=None)
def test_every_text_comes_back_whole(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(names)
@settings(deadline=None)
def test_a_name_is_the_same_tokens_wherever_it_begins(tokenizer: Any, name: str) -> None:
    alone = tokenizer.tokenize(name)
    for before in ('"', "(", "\n", "-"):
        assert tokenizer.tokenize(before + name)[-len(alone) :] == alone


@given(names)
@settings(deadline=None)
def test_what_ends_at_a_quotation_mark_is_the_same_tokens_without_it(tokenizer: Any, name: str) -> None:
    alone = tokenizer.tokenize(f" {name}.")
    for after in ('"', '","', '"]}'):
        assert tokenizer.tokenize(f" {name}.{after}")[: len(alone)] == alone


@given(st.from_regex("[0-9]{1,9}", fullmatch=True))
@settings(deadline=None)
def test_a_number_is_cut_into_pairs_of_digits(tokenizer: Any, number: str) -> None:
    assert all(len(token) <= 2 for token in tokenizer.tokenize(number))
    assert tokenizer.tokenize(number)[: -(len(number) % 2) or None] == [
        token for at in range(0, len(number) - 1, 2) for token in tokenizer.tokenize(number[at : at + 2])
    ]


def test_chats_are_put_to_it_in_its_template(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": " you"}]
    lines = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": parts}]
    text = tokenizer.apply_chat_template(lines, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi you<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.eos_token_id) == 2
    assert len(tokenizer) <= blank.VOCABULARY


@given(st.integers(0, 2**31))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_new_model_copies_what_it_has_read_before_any_training(model: Any, seed: int) -> None:
    import torch

    size, length = model.config.vocab_size, 60
    once = torch.randint(3, size, (4, length), generator=torch.Generator().manual_seed(seed))
    read = torch.cat([once, once], dim=1)
    with torch.no_grad():
        said = model(read).logits.log_softmax(-1)
    losses = -said[:, :-1].gather(-1, read[:, 1:, None])[..., 0]
    chance = math.log(size)
    assert losses[:, length:].mean() < 0.35 * chance
    assert losses[:, : length - 1].mean() > chance  # nothing to copy yet


def test_the_same_seed_makes_the_same_model(model: Any, tokenizer: Any, folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    for seed, same in ((7, True), (8, False)):
        blank.new_model(tokenizer, tmp_path, seed=seed)
        assert ((tmp_path / "model.safetensors").read_bytes() == weights) == same


def test_half_precision_takes_half_the_bytes_and_all_the_rest_along(model: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # what was there is replaced
        blank.halve(folder, out)
        assert {file.name for file in out.iterdir()} == {file.name for file in folder.iterdir()}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    sizes = [(where / "model.safetensors").stat().st_size for where in (out, folder)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.01)
    count = sum(weights.numel() for weights in model.state_dict().values())
    assert blank.parameters(out) == blank.parameters(folder) == count < 6_000_000


def test_a_halving_that_fails_leaves_what_was_there(
    model: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    before = (out / "model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        blank.halve(folder, out)
    assert (out / "model.safetensors").read_bytes() == before
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2"
