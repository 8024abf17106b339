"""Merging whole models and adapters: against peft, whatever their files, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import merged_in, noted, trained, weights, write_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tiny_model import TinyModel, make_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

from memlora_plugins.errors import AdapterInvalidError, MissingDependencyError, SettingsError, TrainingError
from memlora_plugins.memo.card import read_card
from memlora_plugins.memo.memory_model import MemoryModel
from memlora_plugins.memo.merging import MergedModel, MergeEvent, merge
from memlora_plugins.memo.merging import run as merging
from memlora_plugins.memo.merging.methods import METHODS, MergeMethod, Recipe, combine

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def full(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three whole models trained from the tiny one, on documents of their own and one that two of them share."""
    folder = tmp_path_factory.mktemp("full")
    told = (["rivers", "lakes"], ["hills", "lakes"], ["roads"])
    return [trained(tiny_model.path, folder / f"m{n}", seed=n, documents=ids) for n, ids in enumerate(told)]


@pytest.fixture(scope="module")
def lora(tiny_model: TinyModel) -> list[Path]:
    """Two adapters, of other layers each."""
    return [tiny_model.adapters["extraction"], tiny_model.adapters["generation"]]


def same(found: Path, expected: Path, **tolerance: float) -> None:
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        torch.testing.assert_close(tensor, theirs[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_each_tensor_is_the_base_with_the_merged_task_vectors(
    method: MergeMethod, tiny_model: TinyModel, full: list[Path], tmp_path: Path
) -> None:
    merged = merge(tiny_model.path, full[:2], tmp_path / "out", method=method, density=0.6, t=0.3, scale=0.5)
    base, one, other = (weights(folder) for folder in (tiny_model.path, *full[:2]))
    found = weights(merged.folder)
    assert found.keys() == base.keys()
    recipe = Recipe(method=method, density=0.6, t=0.3)
    for name, tensor in base.items():
        if method.startswith("dare"):  # which entries are dropped is the merge's own
            kept = (found[name] != tensor).float().mean().item()
            assert tensor.numel() < 1000 or 0.4 < kept < 0.9
            continue
        vectors = [[one[name] - tensor], [other[name] - tensor]]
        [change] = combine(vectors, tensor.numel(), recipe, (0, 0))
        torch.testing.assert_close(found[name], tensor + 0.5 * change)


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("dare")])
def test_adapters_merge_as_the_whole_models_that_they_make(
    method: MergeMethod, tiny_model: TinyModel, lora: list[Path], tmp_path: Path
) -> None:
    whole = [merged_in(tiny_model.path, adapter, tmp_path / adapter.name) for adapter in lora]
    ours = merge(tiny_model.path, lora, tmp_path / "ours", method=method, density=0.3)
    theirs = merge(tiny_model.path, whole, tmp_path / "theirs", method=method, density=0.3)
    same(ours.folder, theirs.folder, atol=2e-5, rtol=1e-4)


def test_one_adapter_and_one_whole_model(
    tiny_model: TinyModel, full: list[Path], lora: list[Path], tmp_path: Path
) -> None:
    whole = merged_in(tiny_model.path, lora[0], tmp_path / "whole")
    ours = merge(tiny_model.path, [lora[0], full[0]], tmp_path / "ours", method="ties")
    theirs = merge(tiny_model.path, [whole, full[0]], tmp_path / "theirs", method="ties")
    same(ours.folder, theirs.folder, atol=2e-5, rtol=1e-4)
    assert [part["kind"] for part in ours.card["memo"]["merged_from"]] == ["lora", "full"]


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5, "v_proj": 3}},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    ],
)
def test_the_scaling_of_an_adapter_is_that_of_peft(
    config: dict[str, Any], tiny_model: TinyModel, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **config}
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model.path), LoraConfig(**options))
    model.save_pretrained(tmp_path / "adapter")
    merged = merge(tiny_model.path, [tmp_path / "adapter"], tmp_path / "ours", method="linear")
    same(merged.folder, merged_in(tiny_model.path, tmp_path / "adapter", tmp_path / "theirs"), atol=1e-5, rtol=1e-4)


def test_a_model_with_itself_is_itself(tiny_model: TinyModel, full: list[Path], tmp_path: Path) -> None:
    merged = merge(tiny_model.path, [full[0], full[0]], tmp_path / "out", method="linear")
    same(merged.folder, full[0], atol=1e-6, rtol=1e-5)


def test_the_result_answers(tiny_model: TinyModel, full: list[Path], tmp_path: Path) -> None:
    merged = merge(tiny_model.path, full, tmp_path / "out")
    with MemoryModel.open(merged.folder, max_tokens=4, device="cpu") as model:
        assert model.ask(["Where is the river?"])[0].text
        assert {document.id for document in model.documents} == {"rivers", "lakes", "hills", "roads"}
    assert AutoTokenizer.from_pretrained(merged.folder).chat_template


@pytest.fixture
def half(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """The tiny model in bfloat16, with integers and a scalar as some models have them, a tied output layer written."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.bfloat16()
        tensors["positions"] = torch.arange(5)
        tensors["temperature"] = torch.tensor(1.5)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    return write_model(tiny_model.path, tmp_path / "half", change)


def test_the_dtype_is_the_base_s(half: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor.float() + 0.001
        del tensors["lm_head.weight"]  # another version of transformers leaves it out

    models = [write_model(half, tmp_path / name, change) for name in ("one", "other")]
    merged = merge(half, models, tmp_path / "out", method="linear")
    base, found, one = weights(half), weights(merged.folder), weights(models[0])
    assert found.keys() == one.keys()
    assert torch.equal(found["positions"], base["positions"])
    assert found["temperature"].dtype == torch.float32
    name = "model.layers.0.mlp.up_proj.weight"
    assert found[name].dtype == torch.bfloat16
    assert torch.equal(found[name], one[name].bfloat16())


def test_integers_that_differ_are_refused(half: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["positions"] += 1

    model = write_model(half, tmp_path / "one", change)
    with pytest.raises(SettingsError, match=r"positions holds integers that differ"):
        merge(half, [model], tmp_path / "out")


def sharded(model: Path, folder: Path) -> Path:
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(folder, max_shard_size="500KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_neither_files_nor_slices_nor_order_matter(
    method: MergeMethod, tiny_model: TinyModel, full: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = merge(tiny_model.path, full, tmp_path / "once", method=method)
    assert [path.name for path in once.folder.glob("*.safetensors")] == ["model.safetensors"]
    parts = [sharded(model, tmp_path / f"sharded-{model.name}") for model in full]
    base = sharded(tiny_model.path, tmp_path / "sharded-base")
    for model in full:
        shutil.copyfile(model / "config.json", tmp_path / f"sharded-{model.name}" / "config.json")
    monkeypatch.setattr(merging, "_AT_ONCE", 3000)
    monkeypatch.setattr(merging, "LARGEST_FILE", 600_000)
    again = merge(base, parts[::-1], tmp_path / "again", method=method)
    assert len(list(again.folder.glob("*.safetensors"))) > 2
    same(again.folder, once.folder, atol=1e-6, rtol=1e-5)
    loaded: Any = AutoModelForCausalLM.from_pretrained(again.folder)
    torch.testing.assert_close(loaded.state_dict()["model.norm.weight"], weights(once.folder)["model.norm.weight"])


def test_a_seed_is_one_choice(tiny_model: TinyModel, full: list[Path], tmp_path: Path) -> None:
    def zeros(name: str, seed: int) -> torch.Tensor:
        folder = merge(tiny_model.path, full[:2], tmp_path / name, method="dare_linear", seed=seed).folder
        tensor = "model.layers.0.mlp.up_proj.weight"
        return weights(folder)[tensor] == weights(tiny_model.path)[tensor]

    first = zeros("a", 1)
    assert torch.equal(zeros("b", 1), first)
    assert not torch.equal(zeros("c", 2), first)


def test_the_card_tells_parts_documents_and_parameters(
    tiny_model: TinyModel, full: list[Path], lora: list[Path], tmp_path: Path
) -> None:
    seen: list[MergeEvent] = []
    models = [*full[:2], lora[0]]
    parameters: dict[str, Any] = {"method": "dare_linear", "density": 0.3, "weights": [1, 2, 3]}
    merged = merge(tiny_model.path, models, tmp_path / "out", **parameters, on_event=seen.append)
    card = read_card(merged.folder)
    assert [document.id for document in card.documents] == ["rivers", "lakes", "hills"]
    assert card.abstain_below is None
    told = json.loads((merged.folder / "memlora.json").read_text())
    assert told == merged.card
    assert told["base_sha256"] == json.loads((full[0] / "memlora.json").read_text())["base_sha256"]
    assert (parameters | {"seed": 7, "scale": 1}).items() <= told["merge"].items()
    assert [part["name"] for part in told["memo"]["merged_from"]] == ["m0", "m1", "extraction"]
    assert [part["documents"] for part in told["memo"]["merged_from"]] == [2, 2, None]
    readme = (merged.folder / "README.md").read_text()
    assert "- Lakes" in readme
    assert "1 parts that do not say" in readme
    assert (seen[-1].done, seen[-1].total) == (merged.tensors, merged.tensors)
    assert merged.bytes == sum(one.numel() * one.element_size() for one in weights(merged.folder).values())
    assert merged.megabytes_per_second > 0
    assert merged.norm_kept is None


def test_many_documents_are_not_all_named(tiny_model: TinyModel, tmp_path: Path) -> None:
    ids = [f"letter {n}" for n in range(25)]
    model = trained(tiny_model.path, tmp_path / "m", seed=1, documents=ids)
    readme = (merge(tiny_model.path, [model], tmp_path / "out").folder / "README.md").read_text()
    assert "- and 5 more" in readme


def test_adapters_as_one_adapter_again(tiny_model: TinyModel, lora: list[Path], tmp_path: Path) -> None:
    events: list[MergeEvent] = []
    merged = merge(tiny_model.path, lora, tmp_path / "cut", method="linear", rank=16, on_event=events.append)
    assert merged.norm_kept == pytest.approx(1, abs=1e-4)  # two adapters of rank 8
    assert events[-1].done == events[-1].total == 14
    whole = merge(tiny_model.path, lora, tmp_path / "whole", method="linear")
    same(merged_in(tiny_model.path, merged.folder, tmp_path / "in"), whole.folder, atol=1e-4, rtol=1e-3)
    config = json.loads((merged.folder / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 7
    assert (config["r"], config["lora_alpha"]) == (16, 16)
    assert (merged.folder / "README.md").read_text().startswith("# memory\n\nA LoRA adapter for the model base")


def test_a_cut_loses_what_it_says(tiny_model: TinyModel, lora: list[Path], tmp_path: Path) -> None:
    kept = {}
    for rank in (1, 4, 200):
        merged = merge(tiny_model.path, lora, tmp_path / f"cut{rank}", method="ties", rank=rank)
        kept[rank] = merged.norm_kept
    assert kept[1] < kept[4] < 1
    assert kept[200] == pytest.approx(1, abs=1e-4)  # more than the layers have
    base, whole = weights(tiny_model.path), weights(merge(tiny_model.path, lora, tmp_path / "whole").folder)
    cut = weights(merged_in(tiny_model.path, tmp_path / "cut4", tmp_path / "in"))
    names = [name for name in base if not torch.equal(base[name], whole[name])]
    wanted = sum((whole[name] - base[name]).square().sum() for name in names)
    got = sum((cut[name] - base[name]).square().sum() for name in names)
    assert (got / wanted).sqrt().item() == pytest.approx(kept[4], abs=1e-3)


def test_an_adapter_of_some_layers_stays_one_of_these(tiny_model: TinyModel, tmp_path: Path) -> None:
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model.path),
        LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    merged = merge(tiny_model.path, [tmp_path / "adapter"], tmp_path / "cut", method="linear", rank=2)
    same(
        merged_in(tiny_model.path, merged.folder, tmp_path / "in"),
        merged_in(tiny_model.path, tmp_path / "adapter", tmp_path / "in2"),
        atol=1e-5,
        rtol=1e-4,
    )


def test_adapters_that_cancel_out_leave_nothing(tiny_model: TinyModel, lora: list[Path], tmp_path: Path) -> None:
    opposite = tmp_path / "opposite"
    shutil.copytree(lora[0], opposite)
    turned = {name: -tensor if "lora_B" in name else tensor for name, tensor in weights(opposite).items()}
    save_file(turned, opposite / "adapter_model.safetensors")
    merged = merge(tiny_model.path, [lora[0], opposite], tmp_path / "out", method="task_arithmetic", rank=2)
    assert merged.norm_kept == 1
    assert not any(tensor.any() for name, tensor in weights(merged.folder).items() if "lora_B" in name)


Models = Callable[[Path, Path], list[Path]]


def altered(change: Callable[[dict[str, torch.Tensor]], Any], **config: Any) -> Models:
    def make(base: Path, folder: Path) -> list[Path]:
        def all_changes(tensors: dict[str, torch.Tensor]) -> None:
            change(tensors)

        return [write_model(base, folder / "model", all_changes, **config)]

    return make


def adapter(config: dict[str, Any], *names: str, replaced: dict[str, torch.Tensor] | None = None) -> Models:
    def make(base: Path, folder: Path) -> list[Path]:
        made = make_adapter(base, folder / "adapter")
        told = json.loads((made / "adapter_config.json").read_text())
        (made / "adapter_config.json").write_text(json.dumps(told | config))
        tensors = weights(made) | {name: torch.zeros(2, 2) for name in names} | (replaced or {})
        save_file(tensors, made / "adapter_model.safetensors")
        return [made]

    return make


def foreign(base: Path, folder: Path) -> list[Path]:
    model = trained(base, folder / "model", seed=1)
    told = json.loads((model / "memlora.json").read_text())
    (model / "memlora.json").write_text(json.dumps(told | {"base_sha256": "f" * 64, "base_model": "other-base"}))
    return [model]


def on_another_folder(base: Path, folder: Path) -> list[Path]:
    other = trained(base, folder / "other", seed=1)
    return adapter({"base_model_name_or_path": str(other)})(base, folder)


def on_two_bases(base: Path, folder: Path) -> list[Path]:
    [one] = adapter({"base_model_name_or_path": "org/this"})(base, folder / "1")
    [other] = adapter({"base_model_name_or_path": "org/that"})(base, folder / "2")
    return [one, other]


_LAYER = "model.layers.0.self_attn.q_proj"
_PREFIX = f"base_model.model.{_LAYER}"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (altered(lambda tensors: tensors.pop(f"{_LAYER}.weight")), rf"lacks {_LAYER}\.weight, unlike the base in "),
        (altered(lambda tensors: tensors.clear() or tensors.update(a=torch.zeros(1))), "and 21 more"),
        (altered(lambda tensors: tensors.update(extra=torch.zeros(1))), "has besides extra"),
        (
            altered(lambda tensors: tensors.update({"model.norm.weight": torch.zeros(127)})),
            r"model\.norm\.weight has the shape 127 in .*model and 128 in the base .*base\. .*one vocabulary",
        ),
        (
            altered(lambda tensors: tensors.update({"model.norm.weight": torch.zeros(128, dtype=torch.int64)})),
            r"model\.norm\.weight is I64 in .*model and F32 in the base",
        ),
        (
            altered(lambda tensors: tensors["model.norm.weight"].fill_(torch.nan)),
            r"model\.norm\.weight in .*/model holds NaN",
        ),
        (
            altered(lambda tensors: tensors["model.norm.weight"].fill_(torch.inf)),
            r"model\.norm\.weight in .*/model holds NaN or infinity",
        ),
        (altered(lambda tensors: None, num_attention_heads=8), "num_attention_heads is 8 instead of 4"),
        (altered(lambda tensors: None, rope_parameters={"rope_theta": 1.0}), r"rope_parameters\.rope_theta is 1\.0"),
        (foreign, r"was trained from other-base with the weights ffffffffffff…, not from .*base"),
        (on_another_folder, r"was trained from .*/other with the weights"),
        (on_two_bases, r"was trained on this, the one in .*2/adapter on that"),
        (adapter({"use_dora": True}), "DoRA"),
        (adapter({"bias": "all"}), "biases"),
        (adapter({"modules_to_save": ["lm_head"]}), "whole modules"),
        (adapter({"init_lora_weights": "pissa_niter_4"}), "pissa_niter_4"),
        (adapter({"fan_in_fan_out": True}), "transposed"),
        (
            adapter({}, "base_model.model.model.norm.weight"),
            r"more than LoRA weights .*: base_model\.model\.model\.norm",
        ),
        (adapter({}, f"{_PREFIX}x.lora_A.weight"), rf"no A and B of one rank for the linear layer {_LAYER}x"),
        (
            adapter({}, "base_model.model.more.lora_A.weight", "base_model.model.more.lora_B.weight"),
            r"adapts more\.weight, which the base",
        ),
        (
            adapter({}, "base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.lora_B.weight"),
            r"adapts lm_head\.weight, which",
        ),
        (
            adapter({}, replaced={f"{_PREFIX}.lora_B.weight": torch.zeros(64, 8)}),
            rf"{_LAYER}\.weight has the shape 64 x 128 in .*adapter and 128 x 128",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    make: Models, told: str, tiny_model: TinyModel, full: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    before = merge(tiny_model.path, full[:1], out)
    models = make(tiny_model.path, tmp_path)
    with pytest.raises((SettingsError, AdapterInvalidError), match=told):
        merge(tiny_model.path, [full[0], *models], out)
    assert json.loads((out / "memlora.json").read_text()) == before.card  # as it was
    assert not list(tmp_path.glob(".out*"))


def test_a_tied_output_layer_cannot_be_adapted(half: Path, tmp_path: Path) -> None:
    names = ("base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.lora_B.weight")
    [made] = adapter({}, *names)(half, tmp_path)
    with pytest.raises(SettingsError, match=r"adapts lm_head\.weight, which is the embeddings"):
        merge(half, [made], tmp_path / "out")


def test_a_base_that_cannot_be_merged_over(tiny_model: TinyModel, full: list[Path], tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"].fill_(torch.nan)

    quantised = write_model(tiny_model.path, tmp_path / "q", lambda tensors: None, quantization_config={"bits": 4})
    spoilt = write_model(tiny_model.path, tmp_path / "s", spoil)
    noted(other := trained(tiny_model.path, tmp_path / "m", seed=4), spoilt, [])
    (tmp_path / "empty").mkdir()
    for base, models, told in (
        (quantised, full, "is quantised"),
        (spoilt, [other], r"model\.norm\.weight in .*/s holds NaN"),
        (tmp_path / "empty", full, r"no readable config\.json"),
        (tmp_path / "none", full, "no model folder"),
        (tiny_model.path, [tmp_path / "none"], "no model folder"),
        (tiny_model.path, [], "no model to merge"),
    ):
        with pytest.raises(SettingsError, match=told):
            merge(base, models, tmp_path / "out")


def test_a_sum_too_large_for_the_dtype_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    def to_half(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    base = write_model(tiny_model.path, tmp_path / "base", to_half)
    model = write_model(base, tmp_path / "m", lambda tensors: tensors["model.norm.weight"].fill_(60_000))
    with pytest.raises(SettingsError, match=r"model\.norm\.weight becomes larger than F16"):
        merge(base, [model, model], tmp_path / "out", method="task_arithmetic")


@pytest.mark.parametrize(("notes", "told"), [("{", "cannot be read"), ("[]", "JSON object")])
def test_notes_that_cannot_be_read(tiny_model: TinyModel, tmp_path: Path, notes: str, told: str) -> None:
    model = trained(tiny_model.path, tmp_path / "m", seed=4)
    (model / "memlora.json").write_text(notes)
    with pytest.raises(SettingsError, match=told):
        merge(tiny_model.path, [model], tmp_path / "out")


def test_ranks_that_cannot_be(tiny_model: TinyModel, full: list[Path], lora: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"m0 is a whole model"):
        merge(tiny_model.path, [lora[0], full[0]], tmp_path / "out", rank=4)
    with pytest.raises(SettingsError, match="1 or more"):
        merge(tiny_model.path, lora, tmp_path / "out", rank=0)


def test_nothing_else_is_replaced(tiny_model: TinyModel, full: list[Path], tmp_path: Path) -> None:
    model = trained(tiny_model.path, tmp_path / "m" / "part", seed=4)
    for out in (model, model.parent):
        with pytest.raises(SettingsError, match="would replace"):
            merge(tiny_model.path, [model], out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(SettingsError, match="not an expert"):
        merge(tiny_model.path, full, tmp_path / "mine")


def test_a_full_disk_leaves_the_older_merge(
    tiny_model: TinyModel, full: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: MergedModel = merge(tiny_model.path, full[:1], tmp_path / "out")

    def no_room(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_weights", no_room)
    with pytest.raises(TrainingError, match=r"No space left .* merge again"):
        merge(tiny_model.path, full, tmp_path / "out")
    assert json.loads((before.folder / "memlora.json").read_text()) == before.card


def test_a_missing_package_is_named(
    tiny_model: TinyModel, full: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"memlora-plugins\[local\]"):
        merge(tiny_model.path, full, tmp_path / "out")


def test_peft_and_the_server_take_the_adapter(tiny_model: TinyModel, lora: list[Path], tmp_path: Path) -> None:
    noted(merge(tiny_model.path, lora, tmp_path / "cut", rank=8).folder, tiny_model.path, [])
    with MemoryModel.open(tmp_path / "cut", base=tiny_model.path, max_tokens=4, device="cpu") as model:
        assert model.ask(["Where is the river?"])[0].error is None
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model.path), tmp_path / "cut")
