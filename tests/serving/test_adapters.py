"""Adapter files: what a server would refuse is refused before anything is sent, and names follow contents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapter_files import write_adapter, write_safetensors
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import AdapterInvalidError
from memlora_plugins.serving.adapters import Adapter, base_config, checked_name, preflight, resolve, server_rank


def test_the_name_holds_a_hash_of_the_contents(tmp_path):
    first = preflight("update", write_adapter(tmp_path / "a"))
    copy = preflight("update", write_adapter(tmp_path / "b"))
    other = preflight("update", write_adapter(tmp_path / "c", seed=1))
    rescaled = preflight("update", write_adapter(tmp_path / "d", lora_alpha=32))
    assert first.name == copy.name
    assert len({first.name, other.name, rescaled.name}) == 3
    assert first.name.startswith("update@")
    assert len(first.name) == len("update@") + 12
    assert (first.rank, first.base, first.folder) == (8, "org/base", tmp_path / "a")


def test_adapters_saved_by_peft_pass(tiny_model):
    config = base_config(tiny_model.path)
    names = {preflight(name, folder, base_config=config).name for name, folder in tiny_model.adapters.items()}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"r": 512}, "rank 512 is above the maximum 256: train a smaller one"),
        ({"r": 8, "rank_pattern": {"q_proj": 512}}, "rank 512"),
        ({"r": 0}, "not a positive integer"),
        ({"r": "8"}, "not a positive integer"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
    ],
)
def test_what_the_server_cannot_serve(tmp_path, config, what):
    with pytest.raises(AdapterInvalidError, match=what):
        preflight("update", write_adapter(tmp_path, **config))


def test_the_servers_own_limit(tmp_path):
    write_adapter(tmp_path, r=64)
    assert preflight("update", tmp_path, max_rank=64).rank == 64
    with pytest.raises(AdapterInvalidError, match="larger --max-lora-rank"):
        preflight("update", tmp_path, max_rank=16)


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(AdapterInvalidError, match=r"DoRA.*; .*bias"):
        preflight("update", write_adapter(tmp_path, use_dora=True, bias="all"))


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ({"hidden_size": 32}, "hidden size 16"),
        ({"text_config": {"hidden_size": 16, "num_hidden_layers": 1}}, "1 layers"),
    ],
)
def test_adapters_of_another_base_model(tmp_path, model, what):
    write_adapter(tmp_path, layer=3)
    assert preflight("update", tmp_path, base_config={"hidden_size": 16, "num_hidden_layers": 4})
    with pytest.raises(AdapterInvalidError, match=f"another base model.*{what}"):
        preflight("update", tmp_path, base_config=model)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(AdapterInvalidError, match="no adapter folder"):
        preflight("update", tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    with pytest.raises(AdapterInvalidError, match=r"no adapter_config\.json"):
        preflight("update", tmp_path / "a")
    config = write_adapter(tmp_path / "a") / "adapter_config.json"
    for text, what in (("{", "cannot be read"), ("[]", "JSON object")):
        config.write_text(text)
        with pytest.raises(AdapterInvalidError, match=what):
            preflight("update", tmp_path / "a")
    write_adapter(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    write_safetensors(weights, {"something.else": [1, 1]})
    with pytest.raises(AdapterInvalidError, match="no LoRA weights"):
        preflight("update", tmp_path / "a")
    weights.unlink()
    with pytest.raises(AdapterInvalidError, match=r"no adapter_model\.safetensors"):
        preflight("update", tmp_path / "a")


@given(st.binary(max_size=64))
def test_any_bytes_as_weights_are_a_typed_error(tmp_path_factory, content):
    folder = write_adapter(tmp_path_factory.mktemp("broken"))
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterInvalidError):
        preflight("update", folder)


@pytest.mark.parametrize("header", [[], {"a.lora_A.weight": 1}, {"a.lora_A.weight": {}}])
def test_odd_headers_are_a_typed_error(tmp_path, header):
    text = json.dumps(header).encode()
    weights = write_adapter(tmp_path) / "adapter_model.safetensors"
    weights.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(AdapterInvalidError, match="safetensors"):
        preflight("update", tmp_path)


def test_files_that_changed_are_noticed(tmp_path):
    adapter = preflight("update", write_adapter(tmp_path))
    assert adapter.unchanged() is adapter
    write_adapter(tmp_path, seed=9)
    with pytest.raises(AdapterInvalidError, match="changed"):
        adapter.unchanged()
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterInvalidError, match="cannot be read"):
        adapter.unchanged()


def test_folders_and_names_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_adapter(tmp_path / "here")
    assert resolve("update", "on-the-server") == Adapter("on-the-server")
    assert resolve("update", "here").folder == tmp_path / "here"
    assert resolve("update", Path("here")).folder == tmp_path / "here"
    for missing in ("org/adapter", "./nope", Path("nope")):
        with pytest.raises(AdapterInvalidError, match="no adapter folder"):
            resolve("update", missing)


@pytest.mark.parametrize("name", ["", "a b", "..", "a\n", "ä", "a%2fb", "a:b"])
def test_names_a_server_could_take_for_a_path(name):
    with pytest.raises(AdapterInvalidError, match="not usable"):
        checked_name(name)


@pytest.mark.parametrize(("ranks", "expected"), [([], 16), ([4], 8), ([8, 9], 16), ([256, 1], 256)])
def test_the_servers_rank_is_the_smallest_that_fits(ranks, expected):
    assert server_rank(Adapter("a", rank=rank) for rank in ranks) == expected


def test_base_models_without_a_readable_config(tmp_path):
    assert base_config("org/base") is None
    (tmp_path / "config.json").write_text("[]")
    assert base_config(tmp_path) is None
