"""Training with the real TRL, peft and transformers, on a tiny model that learns a task by heart in seconds."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lessons import PLACES, QUICK, lessons, questions
from tiny_model import TinyModel, make_tiny_model

from memlora_plugins.errors import (
    AdapterInvalidError,
    DatasetError,
    MissingDependencyError,
    SettingsError,
    TrainingError,
)
from memlora_plugins.serving.adapters import preflight
from memlora_plugins.serving.checkpoint import Checkpoint
from memlora_plugins.serving.engine import Source
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.training.dataset import ChatLine, Sample, write_samples
from memlora_plugins.training.options import TrainingOptions
from memlora_plugins.training.trainer import TrainedExpert, TrainingEvent, train

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")

TRAIN, VALIDATION = lessons("train"), lessons("validation")


def quick(**options: Any) -> TrainingOptions:
    return TrainingOptions(**QUICK | options)


def replies(base: Path, expert: Path) -> list[str]:
    backend = LocalBackend(base, {"generation": expert})
    try:
        return [backend.complete(question).text for question in questions(TRAIN)]
    finally:
        backend.close()


def weights(folder: Path, file: str = "adapter_model.safetensors") -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / file)


def same_weights(one: Path, other: Path, tolerance: float = 1e-5) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all((a[name] - b[name]).abs().max() <= tolerance for name in a)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@dataclass
class Lesson:
    """A finished training: its result, what was said on the way, and the connections it tried to open."""

    expert: TrainedExpert
    events: list[TrainingEvent]
    connections: list[Any]


@pytest.fixture(scope="module")
def learned(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """The whole task, learned once for all tests that only look."""
    import huggingface_hub.constants
    import huggingface_hub.utils._telemetry as telemetry

    events: list[TrainingEvent] = []
    connections: list[Any] = []
    out = tmp_path_factory.mktemp("experts") / "generation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(telemetry._TELEMETRY_QUEUE, "put", connections.append)
        patch.setattr(socket.socket, "connect", lambda self, address: connections.append(address))
        expert = train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(), on_event=events.append)
    return Lesson(expert, events, connections)


# What comes of it -----------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_replies_are_learned_exactly(tiny_model: TinyModel, learned: Lesson) -> None:
    losses = [row["validation_loss"] for row in learned.expert.card["history"]]
    assert losses[0] > 3
    assert learned.expert.validation_loss == min(losses) < 0.05
    assert replies(tiny_model.path, learned.expert.folder) == [sample.reply for sample in TRAIN]


def test_progress_is_told_and_no_connection_opened(learned: Lesson) -> None:
    steps = [event.step for event in learned.events if event.validation_loss is None]
    assert steps == list(range(1, 109))
    assert {event.steps for event in learned.events} == {108}
    validations = [event for event in learned.events if event.validation_loss is not None]
    assert [event.epoch for event in validations] == list(range(1, 37))
    assert min(event.validation_loss or 9 for event in validations) == learned.expert.validation_loss
    assert learned.connections == []


def test_the_folder_is_a_plain_adapter_with_its_card(tiny_model: TinyModel, learned: Lesson) -> None:
    folder = learned.expert.folder
    found = files(folder)
    assert list(found) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "memlora.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["generation"]  # nothing is left beside it
    config = json.loads(found["adapter_config.json"])
    assert (config["r"], config["lora_alpha"], config["bias"], config["base_model_name_or_path"]) == (
        *(8, 32, "none"),
        tiny_model.path.name,
    )
    assert preflight("generation", folder).rank == 8
    assert not any(str(tiny_model.path.parent).encode() in content for content in found.values())
    assert not any(str(folder.parent).encode() in content for content in found.values())


def test_the_card_says_what_it_was_made_of(tiny_model: TinyModel, learned: Lesson, tmp_path: Path) -> None:
    import hashlib

    expert = learned.expert
    card = json.loads((expert.folder / "memlora.json").read_text())
    assert card == expert.card
    write_samples(tmp_path / "train.jsonl", TRAIN)
    data = card["data"]["train"]
    assert data["sha256"] == hashlib.sha256((tmp_path / "train.jsonl").read_bytes()).hexdigest()
    assert (data["samples"], data["too_long"], data["conversations"]) == (12, 0, 4)
    assert data["conversation_ids"] == sorted(f"train {place}" for place in PLACES)
    weights = (tiny_model.path / "model.safetensors").read_bytes()
    assert card["base_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (card["options"]["learning_rate"], card["options"]["seed"], card["expert"]) == (4e-3, 7, "generation")
    assert card["metrics"]["validation_loss"] == expert.validation_loss
    assert (card["metrics"]["epochs"], expert.epochs, card["metrics"]["steps"]) == (36, 36, 108)
    assert card["metrics"]["tokens_per_second"] == expert.tokens_per_second > 0
    assert data["tokens"] * 36 == pytest.approx(expert.tokens_per_second * card["metrics"]["seconds"])
    assert {"torch", "transformers", "peft", "trl"} <= card["versions"].keys()
    readme = (expert.folder / "README.md").read_text()
    for told in (card["base_sha256"], data["sha256"][:12], f"{expert.validation_loss:.4f}", card["versions"]["trl"]):
        assert told in readme


def test_another_base_is_refused_when_it_is_loaded(learned: Lesson, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path, seed=8).path
    backend = LocalBackend(other, {"generation": learned.expert.folder})
    with pytest.raises(AdapterInvalidError, match="trained on other weights"):
        backend.load()
    backend.close()


# What is learned ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tiny_model: TinyModel) -> Checkpoint:
    return Checkpoint(Source(tiny_model.path))


def test_prompts_are_those_that_are_served_and_only_replies_carry_loss(checkpoint: Checkpoint) -> None:
    from memlora_plugins.training.encoding import encode
    from memlora_plugins.training.sft import collate

    tokenizer = checkpoint._tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    encoded = encode(TRAIN, tokenizer, checkpoint.stops, Path("base"), 4096)
    assert [sample.prompt for sample in encoded] == [checkpoint.row(question).prompt for question in questions(TRAIN)]
    rows = [{"input_ids": sample.prompt + sample.reply, "reply": len(sample.reply)} for sample in encoded]
    batch = collate(rows, padding=0)
    for sample, labels, ids, mask in zip(
        TRAIN, batch["labels"], batch["input_ids"], batch["attention_mask"], strict=True
    ):
        carrying = labels[labels != -100].tolist()
        assert carrying[-1] == end
        assert tokenizer.decode(carrying[:-1]) == sample.reply
        assert ids[-len(carrying) :].tolist() == carrying
        assert tokenizer.decode(ids[mask == 1]).endswith(f"<|im_start|>assistant\n{sample.reply}<|im_end|>")


def test_the_loss_is_that_of_the_model_itself(checkpoint: Checkpoint) -> None:
    """Padding on the left and leaving out logits changes nothing: transformers' own loss, sample by sample."""
    import torch

    from memlora_plugins.training.encoding import encode
    from memlora_plugins.training.sft import collate, token_losses

    samples = [*TRAIN[:2], TRAIN[0].model_copy(update={"reply": "a much longer reply than the others, to be padded"})]
    encoded = encode(samples, checkpoint._tokenizer, checkpoint.stops, Path("base"), 4096)
    batch = collate(
        [{"input_ids": sample.prompt + sample.reply, "reply": len(sample.reply)} for sample in encoded], padding=0
    )
    with torch.no_grad():
        ours = token_losses(checkpoint._model, batch)
        for sample, losses in zip(encoded, ours, strict=True):
            ids = torch.tensor([sample.prompt + sample.reply])
            labels = torch.tensor([[-100] * len(sample.prompt) + sample.reply])
            expected = checkpoint._model(input_ids=ids, labels=labels).loss
            assert float(losses.sum() / len(sample.reply)) == pytest.approx(float(expected), rel=1e-4)


class Tokenizer:
    """A fake one whose chat template ends replies with a token of its own, or with none."""

    def __init__(self, ends: str) -> None:
        self._ends = ends

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        return "".join(message["content"] + ("u" if message["role"] == "user" else self._ends) for message in messages)

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(char) for char in text]


@pytest.mark.parametrize(("ends", "learned"), [("|", "|"), ("#\n", "#"), ("\n", "#")])
def test_a_reply_ends_as_the_template_ends_it(ends: str, learned: str) -> None:
    from memlora_plugins.training.encoding import encode

    [sample] = encode(TRAIN[:1], Tokenizer(ends), [ord("#"), ord("|")], Path("base"), 4096)
    assert sample.reply == [ord(char) for char in TRAIN[0].reply + learned]


@pytest.mark.parametrize(
    ("expert", "modules"),
    [
        ("extraction", ["q_proj", "v_proj"]),
        ("update", ["q_proj", "v_proj"]),
        ("generation", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ],
)
def test_the_papers_layers(tiny_model: TinyModel, tmp_path: Path, expert: Any, modules: list[str]) -> None:
    splits = lessons("train", expert), lessons("validation", expert)
    made = train(expert, tiny_model.path, *splits, tmp_path / "out", TrainingOptions(max_steps=1, device="cpu"))
    config = json.loads((made.folder / "adapter_config.json").read_text())
    assert (config["target_modules"], config["r"], config["lora_alpha"]) == (modules, 8, 16)
    assert config["lora_dropout"] == 0.1
    assert {name.split(".")[-3] for name in weights(made.folder)} == set(modules)


def test_layers_outside_of_the_language_model_are_left_alone() -> None:
    from torch import nn

    from memlora_plugins.training.student import _layers

    class Seeing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "up_proj": nn.Linear(2, 2)})
            self.vision = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "patch": nn.Linear(2, 2)})
            self.lm_head = nn.Linear(2, 2)

        def get_decoder(self) -> nn.Module:
            return self.text

    assert _layers(Seeing(), "all-linear", Path("base")) == (["q_proj", "up_proj"], ["vision.q_proj"])
    assert _layers(Seeing(), ("up_proj",), Path("base")) == (["up_proj"], [])
    empty = Seeing()
    empty.text = nn.ModuleDict()
    with pytest.raises(SettingsError, match=r"called all-linear\. It has none"):
        _layers(empty, "all-linear", Path("base"))


def test_one_shared_adapter_for_all(tiny_model: TinyModel, tmp_path: Path) -> None:
    splits = ([*lessons(split), *lessons(split, "update")] for split in ("train", "validation"))
    made = train("shared", tiny_model.path, *splits, tmp_path / "out", quick(max_steps=1))
    assert (made.card["expert"], made.card["data"]["train"]["samples"]) == ("shared", 24)


def test_a_whole_model(tiny_model: TinyModel, tmp_path: Path) -> None:
    made = train("shared", tiny_model.path, TRAIN, VALIDATION, tmp_path / "model", quick(full=True, learning_rate=1e-3))
    assert not {"optimizer.pt", "training_args.bin", "adapter_config.json"} & files(made.folder).keys()
    assert "The whole model" in (made.folder / "README.md").read_text()
    backend = LocalBackend(made.folder)
    assert [backend.complete(question).text for question in questions(TRAIN)] == [sample.reply for sample in TRAIN]
    backend.close()


# How it is learned ----------------------------------------------------------------------------------------------------


def untied(model: Path, folder: Path) -> Path:
    """The model with an output layer of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    loaded.lm_head.weight = type(loaded.lm_head.weight)(loaded.lm_head.weight.detach().clone())
    loaded.config.tie_word_embeddings = False
    loaded.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_learn_at_a_rate_of_their_own(tiny_model: TinyModel, tmp_path: Path, tied: bool) -> None:
    base = tiny_model.path if tied else untied(tiny_model.path, tmp_path / "untied")
    once = {"full": True, "max_steps": 1, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    options = quick(**once, learning_rate=1e-3, embedding_rate=4.0)
    made = train("shared", base, TRAIN, VALIDATION, tmp_path / "model", options)
    before, after = (weights(folder, "model.safetensors") for folder in (base, made.folder))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}  # Adam's first step is the rate
    words = {name for name in moved if "embed" in name or "lm_head" in name}
    assert len(words) == (1 if tied else 2)
    assert {round(moved[name], 4) for name in words} == {0.004}
    assert {round(change, 4) for name, change in moved.items() if name not in words} == {0.001}


def test_muon_turns_matrices_by_the_same_in_all_directions(tiny_model: TinyModel, tmp_path: Path) -> None:
    import torch

    once = {"full": True, "max_steps": 1, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
    options = quick(**once, learning_rate=1e-3, optimizer="muon")
    made = train("shared", tiny_model.path, TRAIN, VALIDATION, tmp_path / "model", options)
    before, after = (weights(folder, "model.safetensors") for folder in (tiny_model.path, made.folder))
    turned = {
        name: after[name] - before[name]
        for name in after
        if after[name].ndim == 2 and "embed" not in name and "lm_head" not in name
    }
    assert len(turned) > 10
    for change in turned.values():
        strength = torch.linalg.svdvals(change) / (1e-3 * 0.2 * max(change.shape) ** 0.5)
        assert strength.max() < 1.3
        assert sum(strength > 0.6) >= 4  # so few words have few directions
    biases = [name for name in after if name not in turned and after[name].ndim == 1]
    assert {round(float((after[name] - before[name]).abs().max()), 4) for name in biases} == {0.001}  # Adam's


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=300), size=st.integers(1, 16), seed=st.integers(0, 9))
def test_batches_hold_every_sample_once_and_are_of_similar_lengths(lengths: list[int], size: int, seed: int) -> None:
    from memlora_plugins.training.sft import LengthBuckets

    order = LengthBuckets(lengths, size, seed)
    seen = list(order)
    assert Counter(seen) == Counter(range(len(lengths)))
    batches = [[lengths[index] for index in seen[at : at + size]] for at in range(0, len(seen), size)]
    if len(lengths) <= 50 * size:  # all in one piece: no length of another batch lies inside of a batch's range
        ranges = sorted((min(batch), max(batch)) for batch in batches)
        assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert list(order) == seen
    order.epoch = 1
    assert Counter(order) == Counter(range(len(lengths)))


def test_early_stopping_keeps_the_best_weights(tiny_model: TinyModel, tmp_path: Path) -> None:
    """The validation samples contradict the others: what is learned makes them worse after a while."""
    contrary = [
        sample.model_copy(update={"reply": PLACES[(PLACES.index(sample.reply) + 1) % 4]}) for sample in VALIDATION
    ]
    made = train("generation", tiny_model.path, TRAIN, contrary, tmp_path / "out", quick(patience=2))
    losses = [row["validation_loss"] for row in made.card["history"]]
    assert len(losses) < 36
    assert losses[-3] == min(losses) == made.validation_loss
    assert made.card["metrics"]["best_step"] == made.card["history"][-3]["step"]
    assert validation_loss(tiny_model.path, made.folder, contrary) == pytest.approx(made.validation_loss, rel=1e-4)


def validation_loss(base: Path, adapter: Path, samples: list[Sample]) -> float:
    """Measured anew, with the expert as it is served."""
    import torch

    from memlora_plugins.training.encoding import encode
    from memlora_plugins.training.sft import collate, token_losses

    served = Checkpoint(Source(base, (("generation", preflight("generation", adapter)),)))
    encoded = encode(samples, served._tokenizer, served.stops, base, 4096)
    served._adapters_of_rows[:] = ["lora0"] * len(encoded)
    rows = [{"input_ids": sample.prompt + sample.reply, "reply": len(sample.reply)} for sample in encoded]
    with torch.no_grad():
        return float(token_losses(served._model, collate(rows, 0)).sum() / sum(row["reply"] for row in rows))


def test_accumulating_changes_nothing_but_memory(tiny_model: TinyModel, tmp_path: Path) -> None:
    for name, at_once in (("whole", None), ("parts", 1)):
        options = quick(device_batch_size=at_once, epochs=2)
        train("generation", tiny_model.path, TRAIN, VALIDATION, tmp_path / name, options)
    assert same_weights(tmp_path / "whole", tmp_path / "parts", 1e-4)


def test_validation_every_few_steps_and_at_the_end(tiny_model: TinyModel, tmp_path: Path) -> None:
    made = train("generation", tiny_model.path, TRAIN, VALIDATION, tmp_path / "out", quick(max_steps=5, eval_every=2))
    assert [row["step"] for row in made.card["history"]] == [2, 4, 5]
    assert all(row["training_loss"] for row in made.card["history"])
    assert made.epochs == pytest.approx(5 / 3)


# Interrupted ----------------------------------------------------------------------------------------------------------

STEPWISE: dict[str, Any] = {"dropout": 0.1, "max_steps": 14, "eval_every": 4}


class Killed(BaseException):
    """Stands in for the end of the process."""


def killed_at(step: int) -> Callable[[TrainingEvent], None]:
    def look(event: TrainingEvent) -> None:
        if event.step == step and event.validation_loss is None:
            raise Killed

    return look


@pytest.fixture(scope="module")
def uninterrupted(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> TrainedExpert:
    out = tmp_path_factory.mktemp("whole") / "out"
    return train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(**STEPWISE))


@pytest.mark.parametrize("step", [2, 7, 13])
def test_a_killed_run_goes_on_to_the_same_result(
    tiny_model: TinyModel, uninterrupted: TrainedExpert, tmp_path: Path, step: int
) -> None:
    out = tmp_path / "out"
    task: Any = ("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(**STEPWISE))
    with pytest.raises(Killed):
        train(*task, on_event=killed_at(step))
    assert not out.exists()
    torn = tmp_path / "out.checkpoints" / "checkpoint-99"  # a kill in the middle of writing one
    torn.mkdir(parents=True)
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    (torn / "trainer_state.json").write_bytes(b'{"global_step": 9')
    events: list[TrainingEvent] = []
    made = train(*task, resume=True, on_event=events.append)
    assert events[0].step == step // 4 * 4 + 1
    assert same_weights(made.folder, uninterrupted.folder)
    assert made.validation_loss == pytest.approx(uninterrupted.validation_loss)
    assert [row["step"] for row in made.card["history"]] == [4, 8, 12, 14]
    assert made.card["data"]["train"]["tokens"] * 14 / 3 == pytest.approx(
        made.tokens_per_second * made.card["metrics"]["seconds"], rel=0.2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_of_a_whole_model_goes_on_to_the_same_result(
    tiny_model: TinyModel, tmp_path: Path, optimizer: str
) -> None:
    """With rates of their own for some of the weights."""
    whole = quick(**STEPWISE | {"dropout": 0.0}, full=True, embedding_rate=4.0, optimizer=optimizer)
    made = train("shared", tiny_model.path, TRAIN, VALIDATION, tmp_path / "one", whole)
    task: Any = ("shared", tiny_model.path, TRAIN, VALIDATION, tmp_path / "two", whole)
    with pytest.raises(Killed):
        train(*task, on_event=killed_at(7))
    again = train(*task, resume=True)
    one, other = (weights(folder, "model.safetensors") for folder in (made.folder, again.folder))
    assert all((one[name] - other[name]).abs().max() <= 1e-5 for name in one)


def test_killed_between_the_last_step_and_the_last_file(
    tiny_model: TinyModel, uninterrupted: TrainedExpert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    task: Any = ("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(**STEPWISE))

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("memlora_plugins.training.trainer.put_in_place", kill)
        with pytest.raises(Killed):
            train(*task)
    events: list[TrainingEvent] = []
    made = train(*task, resume=True, on_event=events.append)
    assert events == []
    assert same_weights(made.folder, uninterrupted.folder)


def test_a_finished_run_is_not_repeated(tiny_model: TinyModel, learned: Lesson) -> None:
    task: Any = ("generation", tiny_model.path, TRAIN, VALIDATION, learned.expert.folder)
    events: list[TrainingEvent] = []
    assert train(*task, quick(threads=1), resume=True, on_event=events.append) == learned.expert
    assert events == []


def test_another_run_is_not_resumed(tiny_model: TinyModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Killed):
        train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(), on_event=killed_at(4))
    with pytest.raises(SettingsError, match=r"another options.*without resume"):
        train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(rank=4), resume=True)
    with pytest.raises(SettingsError, match="another training samples"):
        train("generation", tiny_model.path, TRAIN[:8], VALIDATION, out, quick(), resume=True)
    made = train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(rank=4, max_steps=3))
    assert made.card["options"]["rank"] == 4
    assert made.card["history"][0]["step"] == 3


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Makes every write beyond so many bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [4_000, 150_000])  # too little for the adapter; too little for the optimizer
def test_a_full_disk_leaves_the_last_checkpoint_and_the_older_expert_whole(
    tiny_model: TinyModel,
    uninterrupted: TrainedExpert,
    tmp_path: Path,
    file_size_limit: Callable[[int], None],
    room: int,
) -> None:
    out = shutil.copytree(uninterrupted.folder, tmp_path / "out")
    before = files(out)
    task: Any = ("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(**STEPWISE | {"seed": 8}))

    def fill_the_disk(event: TrainingEvent) -> None:
        if event.step == 5:
            file_size_limit(room)

    with pytest.raises(TrainingError, match=r"step 8 cannot be saved.*make room.*resume") as caught:
        train(*task, on_event=fill_the_disk)
    file_size_limit(resource.RLIM_INFINITY)
    assert "out.checkpoints" in str(caught.value)
    assert files(out) == before
    assert [path.name for path in (tmp_path / "out.checkpoints").glob("checkpoint-*")] == ["checkpoint-4"]
    made = train(*task, resume=True)
    assert [row["step"] for row in made.card["history"]] == [4, 8, 12, 14]
    assert files(out)["adapter_model.safetensors"] != before["adapter_model.safetensors"]


@pytest.mark.parametrize("failing", ["copyfile", "rename"])
def test_a_full_disk_at_the_very_end(
    tiny_model: TinyModel, uninterrupted: TrainedExpert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    out = shutil.copytree(uninterrupted.folder, tmp_path / "out")
    before = files(out)
    task: Any = ("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(max_steps=2))
    real = getattr(shutil if failing == "copyfile" else Path, failing)

    def full(source: Path, target: Path) -> Any:
        if failing == "rename" and not source.name.endswith("draft"):
            return real(source, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil if failing == "copyfile" else Path, failing, full)
        with pytest.raises(TrainingError, match=r"No space left.*make room.*resume"):
            train(*task)
    assert files(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.checkpoints"]
    events: list[TrainingEvent] = []
    train(*task, resume=True, on_event=events.append)
    assert events == []
    assert files(out) != before


def test_a_replacement_that_was_cut_short_is_undone(tiny_model: TinyModel, learned: Lesson, tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = shutil.copytree(learned.expert.folder, tmp_path / ".out.before")  # killed between the two renames
    with pytest.raises(Killed):
        train("generation", tiny_model.path, TRAIN, VALIDATION, out, quick(seed=8), on_event=killed_at(1))
    assert files(out) == files(learned.expert.folder)
    assert not kept.exists()


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_no_expert_is_not_replaced(tiny_model: TinyModel, tmp_path: Path, there: str) -> None:
    out = tmp_path / "notes"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    with pytest.raises(SettingsError, match="not an expert"):
        train(
            "generation",
            tiny_model.path,
            TRAIN,
            VALIDATION,
            out if there == "folder" else out / "diary.txt",
            quick(),
        )
    assert (out / "diary.txt").read_text() == "dear diary"


def test_a_place_that_cannot_be_written(tiny_model: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="cannot be used"):
        train("generation", tiny_model.path, TRAIN, VALIDATION, tmp_path / "file" / "out", quick())


# Bad input ------------------------------------------------------------------------------------------------------------


def start(tiny_model: TinyModel, tmp_path: Path, **changed: Any) -> TrainedExpert:
    task: dict[str, Any] = {
        "expert": "generation",
        "base": tiny_model.path,
        "train": TRAIN,
        "validation": VALIDATION,
        "out": tmp_path / "out",
        "options": quick(max_steps=1),
    }
    return train(**task | changed)


def with_content(text: str, conversation: str = "train Lisbon") -> Sample:
    line = ChatLine(role="user", content=text)
    return Sample(id=text[:9], expert="generation", conversation=conversation, messages=(line,), reply="May")


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"train": []}, DatasetError, "training split is empty"),
        ({"validation": []}, DatasetError, "validation split is empty"),
        ({"validation": TRAIN[:3]}, DatasetError, "train Lisbon in both training and validation"),
        ({"expert": "update"}, DatasetError, r"'Lisbon 0'.*generation expert, not for update"),
        ({"base": Path("nowhere")}, SettingsError, "no model folder nowhere"),
        ({"base": "nobody/nothing"}, SettingsError, "nobody/nothing is not in the cache"),
        ({"options": quick(max_length=5)}, DatasetError, "All 12 samples are longer than 5 tokens"),
        (
            {"options": quick(target_modules=("q_proj", "nope", "lm_head"))},
            SettingsError,
            "no linear layers to adapt called lm_head, nope. It has down_proj, gate_proj",
        ),
        ({"options": quick(learning_rate=1e30)}, TrainingError, "loss became (nan|inf).*Lower the learning rate"),
    ],
)
def test_bad_input_is_explained(
    tiny_model: TinyModel, tmp_path: Path, changed: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        start(tiny_model, tmp_path, **{"options": quick(max_steps=5)} | changed)
    assert list(tmp_path.iterdir()) == []


def test_samples_that_are_too_long_are_counted(tiny_model: TinyModel, tmp_path: Path) -> None:
    made = start(
        tiny_model, tmp_path, train=[*TRAIN, with_content("word " * 500)], options=quick(max_length=60, max_steps=1)
    )
    assert (made.card["data"]["train"]["samples"], made.card["data"]["train"]["too_long"]) == (13, 1)
    assert "| left out as too long | 1 | 0 |" in (made.folder / "README.md").read_text()


def test_samples_longer_than_the_models_window_are_too_long(tiny_model: TinyModel, tmp_path: Path) -> None:
    options = quick(max_length=100_000, max_steps=1)
    made = start(tiny_model, tmp_path, train=[*TRAIN, with_content("word " * 4_000)], options=options)
    assert (made.card["data"]["train"]["too_long"], made.card["options"]["max_length"]) == (1, 4096)


def test_a_student_without_a_chat_template(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model.path, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    with pytest.raises(SettingsError, match=r"no chat template.*instruction-tuned"):
        start(tiny_model, tmp_path, base=base)


def test_a_student_whose_template_refuses_the_samples(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model.path, tmp_path / "base")
    template = base / "chat_template.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + template.read_text()
    )
    asked = (ChatLine(role="system", content="Be brief."), ChatLine(role="user", content="Where?"))
    with pytest.raises(TrainingError, match=r"refuses.*no system.*student"):
        start(tiny_model, tmp_path, base=base, train=[TRAIN[0].model_copy(update={"messages": asked})])


def test_missing_packages_are_named(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "memlora_plugins.training.trainer.find_spec", lambda name: None if name in ("trl", "datasets") else name
    )
    with pytest.raises(MissingDependencyError, match=r"needs datasets, trl.*memlora-plugins\[train\]"):
        start(tiny_model, tmp_path)


def test_memory_that_runs_out(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("memlora_plugins.training.sft.token_losses", run_out)
    with pytest.raises(TrainingError, match=r"not enough memory.*device_batch_size"):
        start(tiny_model, tmp_path)


@pytest.mark.parametrize(
    ("options", "processes", "told"),
    [
        (quick(batch_size=4), "3", "batch size of 4 cannot be shared by 3"),
        (quick(batch_size=12, device_batch_size=4), "2", "Of 6 samples in a step, a process cannot take 4"),
    ],
)
def test_batches_that_processes_cannot_share(
    tiny_model: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: TrainingOptions,
    processes: str,
    told: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(SettingsError, match=told):
        start(tiny_model, tmp_path, options=options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batch_size": 6, "device_batch_size": 4}, "multiple of device_batch_size"),
        ({"target_modules": ()}, "at least one layer"),
        ({"betas": (0.9, 1.5)}, "less than 1"),
        ({"embedding_rate": 4.0}, "for full training"),
        ({"optimizer": "muon"}, "for full training"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        quick(**options)
