"""Making nano, from an empty folder to the card: `make nano`.

Each step leaves its result in the work folder, so that a run that was stopped goes on where it was. The weights in the
package are replaced only by better ones.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from ...embedding import Embedder, SentenceTransformerEmbedder
from ...evaluation.pipeline import PipelineSummary, ablation, stages
from ...experts.quotes import unnamed
from ...files import write_whole
from ...serving.base import Expert
from ...settings import Settings
from ...training.dataset import Sample
from ...training.identity import check_same, digest
from ...training.options import Trained, TrainingOptions
from ...training.trainer import TrainingEvent, train
from . import blank, corpus, memories
from .card import card
from .conversations import conversation
from .dialogue import Author, Split
from .dialogues import read_dialogues
from .measure import (
    DEFAULTS,
    ExtractionScores,
    GenerationScores,
    UpdateScores,
    measure_extraction,
    measure_generation,
    measure_update,
)
from .relations import RELATIONS, pools

SCORES = "scores.json"
Say = Callable[[str], None]

_SHARED: Final = "shared"
_TAUGHT_NEAR = 0.15  # cosine from which on an unrelated memory is one to learn from
_FIRST_SHARES: Mapping[corpus.Lesson, int] = {"sentence": 40, "verdict": 40, "lookup": 20}
_BASE_SHARES: Mapping[corpus.Lesson, int] = {
    "sentence": 20,
    "verdict": 60,
    "lookup": 30,
    "exchange": 575,
    "decision": 200,
    "question": 100,
    "task": 5,
    "chat": 10,
}

_BASE = TrainingOptions(
    full=True,
    optimizer="muon",
    learning_rate=1e-3,
    embedding_rate=4.0,
    schedule="cosine",
    warmup=0.03,
    weight_decay=0.05,
    betas=(0.9, 0.98),
    batch_size=24,
    epochs=1,
    patience=1_000,
)
_FIRST = _BASE.model_copy(update={"schedule": "constant"})  # the base goes on from there
_COPY = _FIRST.model_copy(update={"warmup": 0.25})
_EXPERT = TrainingOptions(
    rank=64,
    alpha=128,
    dropout=0.0,
    target_modules="all-linear",
    learning_rate=5e-4,
    schedule="cosine",
    batch_size=12,
    epochs=1,
    patience=1_000,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything. The defaults are nano's; tests make less of it."""

    seed: int = 7
    copy_samples: int = 6_000
    """Rows of random words to repeat, before anything else."""
    compare_samples: int = 8_000
    """Lines of random words to compare with others."""
    first_samples: int = 50_000
    """The three tasks in short form."""
    base_samples: int = 80_000
    expert_samples: Mapping[Expert, int] = field(
        default_factory=lambda: {"extraction": 8_000, "update": 12_000, "generation": 8_000}
    )
    validation_samples: int = 300
    test_samples: int = 400
    conversations: int = 4
    """Conversations on which the whole pipeline is measured."""
    eval_every: int = 500
    """Steps between two validations."""
    copy: TrainingOptions = _COPY
    first: TrainingOptions = _FIRST
    base: TrainingOptions = _BASE
    expert: TrainingOptions = _EXPERT


class TaskScores(BaseModel):
    """The three tasks on held-out text; `values` and `phrasings` are the two kinds of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extraction_values: ExtractionScores
    extraction_phrasings: ExtractionScores
    update: UpdateScores
    generation: GenerationScores
    generation_phrasings: GenerationScores


class NanoScores(BaseModel):
    """All that is measured of a nano."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: dict[str, TaskScores]
    """By what answered: "base", "experts" and "one shared adapter"."""
    pipeline: dict[str, PipelineSummary]
    """By the rows of the paper's Table 4."""
    parameters: dict[str, int]
    megabytes: float
    training: dict[str, dict[str, float]]
    """By step: samples, tokens per second, validation loss, seconds."""

    @property
    def level(self) -> float:
        """One number to compare two nanos by: the mean of the experts' scores."""
        experts = self.tasks["experts"]
        of_each = (
            experts.extraction_values.f1,
            experts.extraction_phrasings.f1,
            experts.update.accuracy,
            experts.generation.accuracy,
        )
        return sum(of_each) / len(of_each)


class Kitchen:
    """The steps of the recipe, in `work`. By `embedder` memories find what is near to a new fact."""

    def __init__(self, recipe: Recipe, work: Path, dialogues: Path, embedder: Embedder, say: Say) -> None:
        self._recipe = recipe
        self._work = work
        self._dialogues = dialogues
        self._say = say
        self._pools = pools()
        self._training: dict[str, dict[str, float]] = {}
        self._settings = Settings(**DEFAULTS)
        self._embedder = embedder

    def cook(self) -> Path:
        """All steps; the folder that holds the finished base, adapters, scores and card."""
        made = self._work / "nano"
        made.mkdir(parents=True, exist_ok=True)
        taught = replace(self._recipe, test_samples=0, conversations=0)
        made_of = {"recipe": digest(repr(taught)), "text": digest(self._excerpt())}
        check_same(self._work / "recipe.json", made_of)
        self._step("copy", self._make_blank)
        self._step("compare", self._make_compare)
        self._step("first", self._make_first)
        self._step("base", self._make_base)
        for expert in corpus.EXPERTS:
            self._step(expert, partial(self._make_expert, expert))
        self._step(_SHARED, self._make_shared)
        scores = self._measure()
        write_whole(made / SCORES, scores.model_dump_json(indent=1) + "\n")
        write_whole(made / "CARD.md", card(scores, self._recipe, len(RELATIONS)))
        return made

    def author(self, split: Split, offset: int) -> Author:
        """A writer of text of one kind; another one for every offset."""
        return Author(RELATIONS, self._pools, self._recipe.seed + offset, split)

    def _excerpt(self) -> list[str]:
        """Some of the training text, to know it by."""
        author = self.author("train", 0)
        base = [
            sample
            for shares in (_FIRST_SHARES, _BASE_SHARES)
            for sample in corpus.base_samples(author, 300, shares=shares, dialogues=[], prefix="")
        ]
        tasks = [sample for expert in corpus.EXPERTS for sample in self._samples(author, expert, 100)]
        return [sample.model_dump_json() for sample in (*base, *tasks)]

    def _step(self, name: str, make: Callable[[], dict[str, float]]) -> None:
        """Do it, unless an earlier run did."""
        note = self._work / f"{name}.json"
        if not note.is_file():
            began = time.perf_counter()
            self._say(f"{name}: begins")
            figures = make()
            write_whole(note, json.dumps({**figures, "seconds": time.perf_counter() - began}) + "\n")
        self._training[name] = json.loads(note.read_text())
        self._say(f"{name}: {self._training[name]}")

    def _make_blank(self) -> dict[str, float]:
        """The tokenizer, and a blank model that learns to copy."""
        recipe = self._recipe
        new = self._work / "blank"
        sample = self._base_text(self.author("train", 0), min(30_000, recipe.base_samples))
        tokenizer = blank.make_tokenizer(_texts(sample), new)
        blank.new_model(tokenizer, new, seed=recipe.seed)
        return self._drill(corpus.copies, tokenizer, recipe.copy_samples, new, "copy", recipe.copy)

    def _make_compare(self) -> dict[str, float]:
        from transformers import AutoTokenizer

        copying = self._work / "trained-copy"
        tokenizer = AutoTokenizer.from_pretrained(copying)
        recipe = self._recipe
        return self._drill(corpus.comparisons, tokenizer, recipe.compare_samples, copying, "compare", recipe.first)

    def _drill(
        self,
        write: Callable[..., Iterable[Sample]],
        tokenizer: Any,
        count: int,
        base: Path,
        name: str,
        how: TrainingOptions,
    ) -> dict[str, float]:
        """Lessons of random words."""
        lessons, check = (
            list(write(tokenizer, many, seed=seed, prefix=f"{name}-{seed}"))
            for seed, many in enumerate((count, self._recipe.validation_samples), self._recipe.seed)
        )
        return self._train(_SHARED, base, lessons, check, self._work / f"trained-{name}", how)

    def _make_first(self) -> dict[str, float]:
        recipe = self._recipe
        lessons = self._base_text(self.author("train", 2), recipe.first_samples, _FIRST_SHARES)
        check = self._base_text(self.author("values", 3), recipe.validation_samples, _FIRST_SHARES)
        comparing, out = self._work / "trained-compare", self._work / "trained-first"
        return self._train(_SHARED, comparing, lessons, check, out, recipe.first)

    def _make_base(self) -> dict[str, float]:
        recipe = self._recipe
        lessons = self._base_text(self.author("train", 0), recipe.base_samples)
        check = self._base_text(self.author("values", 1), recipe.validation_samples)
        trained = self._work / "trained-base"
        figures = self._train(_SHARED, self._work / "trained-first", lessons, check, trained, recipe.base)
        blank.halve(trained, self._work / "nano" / "base")
        return figures

    def _base_text(
        self, author: Author, count: int, shares: Mapping[corpus.Lesson, int] = _BASE_SHARES
    ) -> list[Sample]:
        chats = read_dialogues(self._dialogues)
        return list(corpus.base_samples(author, count, shares=shares, dialogues=chats, prefix=author.split))

    def _lessons(self, expert: Expert, *, part: float = 1.0) -> tuple[list[Sample], list[Sample]]:
        """An expert's, to learn from and to check by; of both the first `part`."""
        place = 10 * (1 + corpus.EXPERTS.index(expert))
        taught, checked = self._recipe.expert_samples[expert], self._recipe.validation_samples
        lessons = self._samples(self.author("train", place), expert, math.ceil(part * taught))
        check = self._samples(self.author("values", place + 1), expert, math.ceil(part * checked))
        return list(lessons), list(check)

    def _samples(self, author: Author, expert: Expert, count: int) -> Iterator[Sample]:
        nearest = self._recalled if expert == "generation" else partial(self._nearest, least=_TAUGHT_NEAR)
        return corpus.samples(author, expert, count, prefix=f"{expert}-{author.split}", nearest=nearest)

    def _compared(self, fact: str, known: Sequence[str]) -> str | None:
        """The memory that a memory with nano's settings compares a new fact with."""
        return self._nearest(fact, known, self._settings.similarity_threshold)

    def _recalled(self, question: str, known: Sequence[str]) -> str | None:
        """The memory that such a memory answers a question from."""
        return self._closest(question, known, self._settings.answer_threshold)

    def _nearest(self, fact: str, known: Sequence[str], least: float) -> str | None:
        return self._closest(unnamed(fact), known, least)

    def _closest(self, text: str, known: Sequence[str], least: float) -> str | None:
        """The memory that is nearest to a text, names aside, if its cosine is `least` or more."""
        vector, *others = self._embedder.embed([text, *map(unnamed, known)])
        cosines = [float(vector @ other) for other in others]
        best = max(cosines)
        return known[cosines.index(best)] if best >= least else None

    def _make_expert(self, expert: Expert) -> dict[str, float]:
        return self._make_adapter(expert, self._lessons(expert), self._work / "nano" / expert)

    def _make_adapter(self, expert: Trained, lessons: tuple[list[Sample], list[Sample]], out: Path) -> dict[str, float]:
        trained = self._work / f"trained-{expert}"
        figures = self._train(expert, self._work / "nano" / "base", *lessons, trained, self._recipe.expert)
        blank.halve(trained, out)
        return figures

    def _make_shared(self) -> dict[str, float]:
        """One adapter for all stages, for comparison; it sees a tenth of what each of the three sees."""
        every = [self._lessons(expert, part=0.1) for expert in corpus.EXPERTS]
        lessons, check = ([sample for samples in kind for sample in samples] for kind in zip(*every, strict=True))
        return self._make_adapter(_SHARED, (lessons, check), self._work / _SHARED)

    def _train(
        self,
        expert: Trained,
        base: Path,
        lessons: list[Sample],
        check: list[Sample],
        out: Path,
        options: TrainingOptions,
    ) -> dict[str, float]:
        def heard(event: TrainingEvent) -> None:
            if event.validation_loss is not None:
                self._say(f"  step {event.step} of {event.steps}: validation loss {event.validation_loss:.4f}")

        fixed = {"seed": self._recipe.seed, "eval_every": self._recipe.eval_every, "threads": os.cpu_count()}
        chosen = options.model_copy(update=fixed)
        done = train(expert, base, lessons, check, out, chosen, resume=True, on_event=heard)
        return {
            "samples": len(lessons),
            "tokens_per_second": done.tokens_per_second,
            "validation_loss": done.validation_loss,
        }

    # Measuring -------------------------------------------------------------------------------------------------------

    def _measure(self) -> NanoScores:
        from ...serving.local import LocalBackend

        made = self._work / "nano"
        base = made / "base"
        adapters: dict[str, str] = {expert: str(made / expert) for expert in corpus.EXPERTS}
        shared = str(self._work / _SHARED)
        variants: dict[str, dict[str, str]] = {
            "base": {},
            "experts": adapters,
            "one shared adapter": dict.fromkeys(adapters, shared),
        }
        tasks = {}
        for label, chosen in variants.items():
            with closing(LocalBackend(base, chosen)) as backend:
                tasks[label] = self._tasks(backend)
            self._say(f"{label}: {tasks[label].model_dump_json()}")
        talk = self.author("values", 90)
        talks = [conversation(talk, f"talk-{number}") for number in range(self._recipe.conversations)]
        rows = ablation(
            talks,
            stages(adapters, shared),
            lambda chosen: LocalBackend(base, dict(chosen)),
            self._embedder,
            on_row=self._say,
            settings=self._settings,
        )
        return NanoScores(
            tasks=tasks,
            pipeline={label: result.summary for label, result in rows.items()},
            parameters={name: blank.parameters(made / name) for name in ("base", *corpus.EXPERTS)},
            megabytes=sum(file.stat().st_size for file in made.rglob("*") if file.is_file()) / 1e6,
            training=self._training,
        )

    def _tasks(self, backend: Any) -> TaskScores:
        count = self._recipe.test_samples
        values, phrasings = self.author("values", 80), self.author("phrasings", 80)
        questions = self.author("values", 81)
        return TaskScores(
            extraction_values=measure_extraction(backend, [values.scene() for _ in range(count)]),
            extraction_phrasings=measure_extraction(backend, [phrasings.scene() for _ in range(count)]),
            update=measure_update(backend, [memories.served(values, self._compared) for _ in range(count)]),
            generation=measure_generation(backend, [memories.recalled(values, self._recalled) for _ in range(count)]),
            generation_phrasings=measure_generation(
                backend, [memories.recalled(questions, self._recalled, held_out=True) for _ in range(count)]
            ),
        )


def install(made: Path, package: Path, *, force: bool, say: Say) -> bool:
    """Put the finished nano in `package`, if it is better than the one that is there (or `force`)."""
    new = NanoScores.model_validate_json((made / SCORES).read_text())
    there = package / SCORES
    if there.is_file() and not force:
        old = NanoScores.model_validate_json(there.read_text())
        if new.level <= old.level:
            say(f"kept what was there: {old.level:.4f}, the new one has {new.level:.4f}")
            return False
    for name in ("base", *corpus.EXPERTS):
        shutil.rmtree(package / name, ignore_errors=True)
        shutil.copytree(made / name, package / name)
    for file in (SCORES, "CARD.md"):
        shutil.copyfile(made / file, package / file)
    say(f"installed: {new.level:.4f}")
    return True


def _texts(samples: Iterable[Sample]) -> Iterable[str]:
    for sample in samples:
        yield from (message.content for message in sample.messages)
        yield sample.reply


def main() -> None:
    """The command line of `make nano`."""
    import typer

    def nano(
        dialogues: Path = typer.Option(..., help="synthetic-persona-chat-valid.csv (CC BY 4.0)."),  # noqa: B008
        work: Path = typer.Option(Path("build/nano"), help="Where the steps leave their results."),  # noqa: B008
        force: bool = typer.Option(False, help="Install even if the scores did not rise."),
    ) -> None:
        """Make nano: corpus, tokenizer, base, three experts, scores and card. Goes on where it was stopped."""
        with closing(SentenceTransformerEmbedder(DEFAULTS["embedder"])) as embedder:
            made = Kitchen(Recipe(), work, dialogues, embedder, typer.echo).cook()
        install(made, Path(__file__).parent.parent, force=force, say=typer.echo)

    typer.run(nano)


if __name__ == "__main__":
    main()
