"""Opening a model in process: which folders, adapters and devices are refused, and with what advice."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import TinyModel, make_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from memlora_plugins.errors import (
    AdapterInvalidError,
    BackendRequestError,
    BackendUnavailableError,
    MissingDependencyError,
    SettingsError,
)
from memlora_plugins.serving import checkpoint
from memlora_plugins.serving.adapters import weights_sha256
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.serving.local import LocalBackend


def ask(text: str = "Ana moved to Lisbon.", max_tokens: int = 12) -> Request:
    return Request("generation", [{"role": "user", "content": text}], max_tokens=max_tokens)


@pytest.fixture
def base(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A copy of the base model to damage."""
    return Path(shutil.copytree(tiny_model.path, tmp_path / "base"))


@pytest.fixture
def adapter(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A copy of the generation adapter to damage."""
    return Path(shutil.copytree(tiny_model.adapters["generation"], tmp_path / "adapter"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(*args: Any, **named: Any) -> Completion:
    backend = LocalBackend(*args, **named)
    try:
        backend.load()
        return backend.complete(ask())
    finally:
        backend.close()


# The model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "nowhere", "/nowhere/at/all", Path("no/where"), "a//b"])
def test_a_missing_folder(name: str | Path) -> None:
    with pytest.raises(SettingsError, match="no model folder"):
        LocalBackend(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config\.json"):
        LocalBackend(tmp_path)


def test_a_name_is_looked_up_in_the_cache_only(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    with pytest.raises(SettingsError, match="allow_download"):
        LocalBackend("nobody/has-this-model")
    asked = []

    def cached(name: str, *, local_files_only: bool, **_: object) -> str:
        asked.append((name, local_files_only))
        return str(tiny_model.path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    LocalBackend("some/model").close()
    LocalBackend("some/model", allow_download=True).close()
    assert asked == [("some/model", True), ("some/model", False)]


def test_missing_packages(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"llguidance.*memlora-plugins\[local\]"):
        LocalBackend(tiny_model.path)


@pytest.mark.parametrize("limit", ["max_batch", "max_batch_tokens", "threads"])
def test_impossible_limits(tiny_model: TinyModel, limit: str) -> None:
    with pytest.raises(SettingsError, match=limit):
        LocalBackend(tiny_model.path, **{limit: 0})


def test_no_chat_template(base: Path) -> None:
    template = (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    backend = LocalBackend(base)
    for attempt in (backend.load, lambda: backend.complete(ask())):
        with pytest.raises(SettingsError, match="chat template"):
            attempt()
    (base / "chat_template.jinja").write_text(template)
    assert backend.complete(ask()).usage.output_tokens  # mended, it is loaded by the next request
    backend.close()


def test_a_chat_template_that_refuses_the_messages_or_says_nothing(base: Path) -> None:
    (base / "chat_template.jinja").write_text(
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not so') }}{% endif %}"
    )
    backend = LocalBackend(base)
    with pytest.raises(BackendRequestError, match="not so"):
        backend.complete(ask("no"))
    with pytest.raises(BackendRequestError, match="empty prompt"):
        backend.complete(ask("yes"))
    backend.close()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_damaged_files(base: Path, file: str) -> None:
    (base / file).write_bytes(b'{"model_type": "qwen2", "x": 1')
    with pytest.raises((BackendUnavailableError, SettingsError), match="base"):
        load(base)


def test_weights_of_another_shape(base: Path) -> None:
    change(base / "config.json", hidden_size=64, num_attention_heads=2)
    with pytest.raises(BackendUnavailableError, match="cannot be loaded"):
        load(base)


def test_weights_that_are_not_numbers(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackendUnavailableError, match="not finite"):
        load(base)


def test_no_end_of_reply(base: Path) -> None:
    change(base / "tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        change(base / name, eos_token_id=None)
    with pytest.raises(SettingsError, match="ends a reply"):
        load(base)


def test_layers_without_keys_and_values(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_CACHED_ATTENTION", {"sliding_attention"})
    with pytest.raises(SettingsError, match="memlora serve"):
        load(base)


def test_no_fast_tokenizer(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer_class: Any = type(AutoTokenizer.from_pretrained(base))
    monkeypatch.setattr(tokenizer_class, "is_fast", False)
    with pytest.raises(SettingsError, match=r"tokenizer\.json"):
        load(base)


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "meta-physics"])
def test_no_such_device(tiny_model: TinyModel, device: str) -> None:
    with pytest.raises(SettingsError, match=device):
        load(tiny_model.path, device=device)


@pytest.mark.parametrize("dtype", ["int8", "half-baked", "Tensor"])
def test_no_such_dtype(tiny_model: TinyModel, dtype: str) -> None:
    with pytest.raises(SettingsError, match=dtype):
        load(tiny_model.path, dtype=dtype)


def test_half_precision(tiny_model: TinyModel) -> None:
    assert load(tiny_model.path, tiny_model.adapters, dtype="bfloat16", device="cpu").usage.output_tokens


def test_threads_are_given_to_torch(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(checkpoint, "_cores", lambda: 4)
    load(tiny_model.path)
    load(tiny_model.path, threads=3)
    monkeypatch.setattr(checkpoint, "_cores", lambda: 64)
    load(tiny_model.path)
    assert given == [1, 3]


def test_progress_bars_stay_as_they_were(tiny_model: TinyModel, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    load(tiny_model.path)
    assert logging.is_progress_bar_enabled()
    assert capfd.readouterr().err == ""


async def test_sliding_windows_of_attention(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Gemma-2 alternates them with full attention; rows that join and leave must not shift the window."""
    import asyncio

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model.path)
    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, max_position_embeddings=512, initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    backend = LocalBackend(tmp_path, max_batch=3)
    requests = [ask(f"{place} Lisbon and a cat. " * (1 + place % 4), max_tokens=8 + 9 * place) for place in range(6)]
    completions = await asyncio.gather(*[backend.acomplete(request) for request in requests])
    for request, completion in zip(requests, completions, strict=True):
        prompt = tokenizer.apply_chat_template(
            list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = model.generate(**prompt, max_new_tokens=request.max_tokens, do_sample=False)
        told = tokens[0, prompt["input_ids"].shape[1] :]
        assert completion.text == tokenizer.decode(told, skip_special_tokens=True).rstrip("\ufffd")
    await backend.aclose()


# Adapters ----------------------------------------------------------------------------------------------------------


def test_a_missing_adapter_folder(tiny_model: TinyModel, tmp_path: Path) -> None:
    for path in (tmp_path / "none", "served-under-a-name"):
        with pytest.raises(AdapterInvalidError, match="generation expert"):
            LocalBackend(tiny_model.path, {"generation": path})


def test_dora_cannot_be_mixed(tiny_model: TinyModel, adapter: Path) -> None:
    change(adapter / "adapter_config.json", use_dora=True)
    with pytest.raises(AdapterInvalidError, match="DoRA"):
        LocalBackend(tiny_model.path, {"generation": adapter})


def test_any_rank_runs(tiny_model: TinyModel, tmp_path: Path) -> None:
    large = make_adapter(tiny_model.path, tmp_path / "large", rank=300)
    assert load(tiny_model.path, {"generation": large}).model.startswith("generation@")


def test_an_adapter_of_another_model(tiny_model: TinyModel, base: Path, adapter: Path) -> None:
    change(base / "config.json", hidden_size=64)
    with pytest.raises(AdapterInvalidError, match="another base model"):
        LocalBackend(base, {"generation": adapter})


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(
    ("modules", "says"),
    [(["q_proj"], "weights have no counterpart"), (["nothing_like_it"], "does not fit")],
)
def test_weights_that_do_not_fit(
    tiny_model: TinyModel, adapter: Path, modules: list[str], says: str, second: bool
) -> None:
    change(adapter / "adapter_config.json", target_modules=modules)
    good = {"extraction": tiny_model.adapters["extraction"]} if second else {}
    with pytest.raises(AdapterInvalidError, match=says):
        load(tiny_model.path, {**good, "generation": adapter})


def test_the_base_an_adapter_was_trained_on(tiny_model: TinyModel, adapter: Path) -> None:
    notes = adapter / "memlora.json"
    found = hashlib.sha256((tiny_model.path / "model.safetensors").read_bytes()).hexdigest()
    for fine in ({}, {"base_sha256": found}, {"base_sha256": None}):
        notes.write_text(json.dumps(fine))
        load(tiny_model.path, {"generation": adapter})
    notes.write_text(json.dumps({"base_sha256": "0" * 64}))
    with pytest.raises(AdapterInvalidError, match=r"other weights \(sha256 000000000000…\)"):
        load(tiny_model.path, {"generation": adapter})
    for broken in ("[1]", "{"):
        notes.write_text(broken)
        with pytest.raises(AdapterInvalidError, match="cannot be read"):
            load(tiny_model.path, {"generation": adapter})


def test_the_hash_of_a_base_in_shards(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="safetensors"):
        weights_sha256(tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    parts = "".join(hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b"))
    assert weights_sha256(tmp_path) == hashlib.sha256(parts.encode()).hexdigest()
