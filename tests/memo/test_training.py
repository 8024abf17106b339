"""A Memory model with the real TRL, on a tiny model that remembers four things in seconds."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from reflections_by_heart import BY_HEART, PLACES, held_out, reflections
from tiny_model import TinyModel

from memlora_plugins.errors import DatasetError, SettingsError, TrainingError
from memlora_plugins.memo.answers import question_messages
from memlora_plugins.memo.card import Recall, TrainedDocument, read_card
from memlora_plugins.memo.reflections import HeldOutQuestion, write_rows
from memlora_plugins.memo.training import MemoOptions, TrainedMemoryModel, memo_options, recalled, train_memory_model
from memlora_plugins.serving.adapters import preflight
from memlora_plugins.serving.base import Request
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.training.trainer import TrainingEvent

pytestmark = pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")

CATS = TrainedDocument(id="cats.txt", title="Of cats", sha256=hashlib.sha256(b"cats").hexdigest())
UNUSED = TrainedDocument(id="dogs.txt", title="Of dogs")


def by_heart(full: bool = True, **options: Any) -> MemoOptions:
    return memo_options(full, **BY_HEART | options)


def answers(questions: list[str], base: Path, adapter: Path | None = None) -> list[str]:
    backend = LocalBackend(base, {} if adapter is None else {"memory": adapter})
    try:
        asked = [Request("memory", question_messages(question), max_tokens=48) for question in questions]
        return [backend.complete(request).text for request in asked]
    finally:
        backend.close()


def weights(folder: Path, file: str = "model.safetensors") -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / file)


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all((a[name] - b[name]).abs().max() <= 1e-5 for name in a)


class Killed(BaseException):
    """Stands in for the end of the process."""


def killed_at(step: int) -> Callable[[TrainingEvent], None]:
    def look(event: TrainingEvent) -> None:
        if event.step == step and event.validation_loss is None:
            raise Killed

    return look


@dataclass
class Lesson:
    """A finished training, and what was said on the way."""

    model: TrainedMemoryModel
    events: list[TrainingEvent]


@pytest.fixture(scope="module")
def learned(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Lesson:
    """All weights, for all tests that only look."""
    events: list[TrainingEvent] = []
    model = train_memory_model(
        tiny_model.path,
        reflections(),
        tmp_path_factory.mktemp("memories") / "places",
        by_heart(),
        held_out=held_out(),
        documents=[UNUSED, CATS],
        on_event=events.append,
    )
    return Lesson(model, events)


# What comes of it -----------------------------------------------------------------------------------------------------


def test_it_recalls_in_other_words_and_the_best_epoch_is_kept(learned: Lesson) -> None:
    scores = [event.score for event in learned.events if event.validation_loss is not None]
    assert len(scores) == 12
    best = max(score for score in scores if score is not None)
    recall = learned.model.recall
    assert recall is not None
    assert recall.overall.contained == best > (scores[0] or 0.0)
    assert recall.epoch == scores.index(best) + 1  # of equals the earliest
    assert learned.model.card["metrics"]["best_step"] == recall.step
    replies = answers([one.question for one in held_out()], learned.model.folder)
    assert recalled(held_out(), replies) == (recall.overall, recall.kinds)  # asked anew, as it is served


def test_what_it_learned_it_answers_word_for_word(tiny_model: TinyModel, tmp_path: Path) -> None:
    options = by_heart(epochs=30, schedule="linear", betas=(0.9, 0.95))
    made = train_memory_model(tiny_model.path, reflections(), tmp_path / "out", options)
    assert answers([one.question for one in reflections()], made.folder) == [one.answer for one in reflections()]


def test_recall_is_counted_by_kind(learned: Lesson) -> None:
    recall = learned.model.recall
    assert recall is not None
    assert {kind: one.questions for kind, one in recall.kinds.items()} == {"entity": 2, "fact": 2}
    assert recall.overall.questions == 4
    assert recall.overall.contained == sum(one.contained for one in recall.kinds.values()) / 2


def test_any_accepted_answer_is_right_and_exact_says_nothing_else() -> None:
    questions = [
        HeldOutQuestion(question="Where?", answers=("Porto", "the town of Gaia"), kind="place"),
        HeldOutQuestion(question="Who?", answers=("Ana",), kind="person"),
        HeldOutQuestion(question="What?", answers=("tea",)),
    ]
    overall, kinds = recalled(questions, ["It is the Town of Gaia.", "ana!", "coffee"])
    assert overall == Recall(questions=3, contained=2 / 3, exact=1 / 3)
    assert kinds == {
        "fact": Recall(questions=1, contained=0, exact=0),
        "person": Recall(questions=1, contained=1, exact=1),
        "place": Recall(questions=1, contained=1, exact=0),
    }


def test_the_folder_is_a_plain_model_with_its_card(tiny_model: TinyModel, learned: Lesson, tmp_path: Path) -> None:
    folder = learned.model.folder
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "memlora.json", "README.md"} <= names
    assert not {"adapter_config.json", "optimizer.pt", "training_args.bin"} & names
    assert [path.name for path in folder.parent.iterdir()] == ["places"]  # no checkpoints are left beside it
    assert json.loads((folder / "memlora.json").read_text()) == learned.model.card
    texts = (folder / "memlora.json").read_text() + (folder / "README.md").read_text()
    assert str(tiny_model.path.parent) not in texts

    card = read_card(folder)
    ids = [f"{thing}.txt" for thing in PLACES]
    assert [document.id for document in card.documents] == ids  # what no reflection is about was not trained on
    assert card.documents[1] == CATS
    assert card.documents[0] == TrainedDocument(id=ids[0])
    assert card.abstain_below is card.merged_from is None
    assert card.held_out is not None
    assert card.held_out.best == learned.model.recall
    assert [one.epoch for one in card.held_out.history] == list(range(1, 13))
    write_rows(tmp_path / "held_out.jsonl", held_out())
    assert card.held_out.sha256 == hashlib.sha256((tmp_path / "held_out.jsonl").read_bytes()).hexdigest()
    assert "merged_from" not in learned.model.card["memo"]


def test_the_readme_says_what_it_knows_and_recalls(learned: Lesson) -> None:
    readme = (learned.model.folder / "README.md").read_text()
    assert "about 4 documents, which cannot be taken out of its weights again: Ana.txt, Of cats, " in readme
    assert "| step | epoch | all | entity | fact |" in readme
    recall = learned.model.recall
    assert recall is not None
    assert f"Kept is step {recall.step}." in readme
    row = f"| {100 * recall.overall.contained:.1f} ({100 * recall.overall.exact:.1f}) |"
    assert f"| {recall.step} | {recall.epoch:g} {row}" in readme


def test_two_texts_of_one_id_are_both_on_record(tiny_model: TinyModel, tmp_path: Path) -> None:
    """Those of two corpora, say: the weights have learned either."""
    id = reflections()[0].documents[0]
    told = [TrainedDocument(id=id, sha256=letter * 64) for letter in "aba"]
    made = train_memory_model(tiny_model.path, reflections(), tmp_path / "out", by_heart(max_steps=1), documents=told)
    assert read_card(made.folder).documents[:2] == tuple(told[:2])
    assert [one.id for one in read_card(made.folder).documents].count(id) == 2


def test_long_lists_of_documents_are_cut_short(tiny_model: TinyModel, tmp_path: Path) -> None:
    many = [
        one.model_copy(update={"documents": (f"{number}.txt", one.documents[0])})
        for number, one in enumerate(reflections() * 2)
    ]
    made = train_memory_model(tiny_model.path, many, tmp_path / "out", by_heart(max_steps=1))
    assert "about 36 documents" in (made.folder / "README.md").read_text()
    assert "and 16 more." in (made.folder / "README.md").read_text()


def test_an_adapter(tiny_model: TinyModel, tmp_path: Path) -> None:
    options = by_heart(False, learning_rate=1e-2, epochs=12)
    made = train_memory_model(tiny_model.path, reflections(), tmp_path / "out", options, held_out=held_out())
    assert {path.name for path in made.folder.iterdir()} == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "memlora.json")
    }
    assert preflight("memory", made.folder).rank == 8
    config = json.loads((made.folder / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["lora_dropout"], len(config["target_modules"])) == (16, 0.05, 7)
    assert made.recall is not None
    replies = answers([one.question for one in held_out()], tiny_model.path, made.folder)
    assert recalled(held_out(), replies)[0] == made.recall.overall


# How it is trained ----------------------------------------------------------------------------------------------------


def test_the_papers_hyper_parameters() -> None:
    whole, adapter = memo_options(), memo_options(False)
    assert whole == MemoOptions()
    for options in (whole, adapter):
        assert (options.epochs, options.schedule, options.warmup, options.weight_decay) == (3, "constant", 0.05, 0.01)
        assert (options.max_grad_norm, options.max_length, options.batch_size) == (1.0, 8096, 256)
        assert (options.optimizer, options.gradient_checkpointing) == ("adamw", True)
        assert options.patience > options.epochs
    assert (whole.full, whole.learning_rate) == (True, 2e-5)
    assert (adapter.full, adapter.learning_rate) == (False, 2e-4)
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets("memory")) == (8, 16, 0.05, "all-linear")
    assert (memo_options(False, rank=16).alpha, memo_options(False, rank=16, alpha=8).alpha) == (32, 8)
    with pytest.raises(ValueError, match="schedule"):
        memo_options(schedule="steep")


def test_a_prompt_is_the_question_alone(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model.path, tmp_path / "base")
    template = base / "chat_template.jinja"
    only_users = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('!') }}{% endif %}{% endfor %}"
    )
    template.write_text(only_users + template.read_text())
    made = train_memory_model(base, reflections(), tmp_path / "out", by_heart(max_steps=1), held_out=held_out())
    data = made.card["data"]["train"]
    assert data["samples"] == 16
    tokenizer = LocalBackend(base)
    tokenizer.close()
    longest = max(len(one.question) + len(one.answer) for one in reflections())
    assert data["tokens"] < 16 * (longest + 12)  # nothing but the question, the answer, and the template's marks


def test_questions_are_asked_every_few_validations_and_at_the_last(tiny_model: TinyModel, tmp_path: Path) -> None:
    events: list[TrainingEvent] = []
    options = by_heart(epochs=8, measure_every=3)
    made = train_memory_model(
        tiny_model.path, reflections(), tmp_path / "out", options, held_out=held_out(), on_event=events.append
    )
    measured = [event.epoch for event in events if event.score is not None]
    assert measured == [3, 6, 8]
    assert len([event for event in events if event.validation_loss is not None]) == 8
    memo = read_card(made.folder)
    assert memo.held_out is not None
    assert [one.epoch for one in memo.held_out.history] == [3, 6, 8]
    assert made.recall is not None
    assert made.recall.epoch in (3, 6, 8)
    assert len(made.card["history"]) == 8


def test_training_ends_early_where_that_is_asked_for(tiny_model: TinyModel, tmp_path: Path) -> None:
    wrong = [one.model_copy(update={"answers": ("nowhere",)}) for one in held_out()]
    options = by_heart(patience=2)
    made = train_memory_model(tiny_model.path, reflections(), tmp_path / "out", options, held_out=wrong)
    assert made.recall is not None
    assert (made.recall.overall.contained, made.recall.epoch, made.epochs) == (0, 1, 3)


def test_without_held_out_questions_the_last_weights_are_kept(tiny_model: TinyModel, tmp_path: Path) -> None:
    events: list[TrainingEvent] = []
    options = by_heart(epochs=3)
    made = train_memory_model(tiny_model.path, reflections(), tmp_path / "out", options, on_event=events.append)
    assert made.recall is None
    assert [event.step for event in events] == list(range(1, 13))
    assert (made.card["metrics"]["best_step"], made.card["metrics"]["epochs"], made.epochs) == (12, 3, 3)
    assert [row["validation_loss"] for row in made.card["history"]] == [None] * 3
    assert made.tokens_per_second > 0
    assert read_card(made.folder).held_out is None
    assert "what it recalls was not measured" in (made.folder / "README.md").read_text()


# Interrupted ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("questions", [True, False])
def test_a_killed_run_goes_on_to_the_same_result(tiny_model: TinyModel, tmp_path: Path, questions: bool) -> None:
    options = by_heart(epochs=5, measure_every=2)
    task: dict[str, Any] = {"held_out": held_out() if questions else ()}
    whole = train_memory_model(tiny_model.path, reflections(), tmp_path / "whole", options, **task)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        train_memory_model(tiny_model.path, reflections(), out, options, **task, on_event=killed_at(14))
    assert not out.exists()
    events: list[TrainingEvent] = []
    task |= {"resume": True, "on_event": events.append}
    made = train_memory_model(tiny_model.path, reflections(), out, options, **task)
    assert events[0].step == 13
    assert same_weights(made.folder, whole.folder)
    assert made.card["memo"] == whole.card["memo"]
    if questions:
        assert [event.epoch for event in events if event.score is not None] == [4, 5]
    again = train_memory_model(tiny_model.path, reflections(), out, options, **task)
    assert again == made


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"held_out": held_out()[:3]}, "another .*held-out questions"),
        ({"documents": [CATS]}, "another documents"),
        ({"options": by_heart(epochs=3, answer_tokens=5)}, "another options"),
    ],
)
def test_another_run_is_not_resumed(tiny_model: TinyModel, tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    task: dict[str, Any] = {"options": by_heart(epochs=3), "held_out": held_out()}
    base, out = tiny_model.path, tmp_path / "out"
    with pytest.raises(Killed):
        train_memory_model(base, reflections(), out, **task, on_event=killed_at(5))
    with pytest.raises(SettingsError, match=told):
        train_memory_model(base, reflections(), out, **task | changed, resume=True)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_there_must_be_reflections(tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no reflections to train on"):
        train_memory_model(tiny_model.path, [], tmp_path / "out")


def test_held_out_questions_must_not_be_learned(tiny_model: TinyModel, tmp_path: Path) -> None:
    known = HeldOutQuestion(question="Where is the Ana", answers=("Lisbon",))
    with pytest.raises(DatasetError, match=r"1 of 5 held-out questions are reflections as well, such as 'Where is the"):
        train_memory_model(tiny_model.path, reflections(), tmp_path / "out", held_out=[*held_out(), known])
    assert list(tmp_path.iterdir()) == []


def test_divided_weights_cannot_be_asked(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memlora_plugins.training.sft import ExpertTrainer

    monkeypatch.setattr(ExpertTrainer, "divides_weights", True)
    with pytest.raises(SettingsError, match=r"ZeRO-3.*without held-out questions"):
        train_memory_model(tiny_model.path, reflections(), tmp_path / "out", by_heart(), held_out=held_out())
    train_memory_model(tiny_model.path, reflections(), tmp_path / "out", by_heart(max_steps=1))


def test_a_model_without_keys_and_values_cannot_be_asked(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memlora_plugins.training.student.keeps_keys", lambda model: False)
    with pytest.raises(SettingsError, match="Train it without held-out questions"):
        train_memory_model(tiny_model.path, reflections(), tmp_path / "out", by_heart(), held_out=held_out())


def test_a_model_whose_template_refuses_questions(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model.path, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ raise_exception('no questions') }}")
    with pytest.raises(TrainingError, match=r"no questions.*another model"):
        train_memory_model(base, reflections(), tmp_path / "out", by_heart(), held_out=held_out())
