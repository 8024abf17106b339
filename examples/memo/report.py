"""What the example's Memory model knows, which step of the synthesis that comes from, and what merging costs.

    make memo-report                    # or: python examples/memo/report.py [--work FOLDER] [--threads 2]

Ten models are trained from nano's base: on all reflections, without each step, on two halves of the corpus, and on both
together. Then all six merging methods are tried on the halves. Whatever is finished is kept in the work folder, so that
a run that was stopped goes on. Tables and plots go to `results/`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from material import HELD_OUT, HERE, OPTIONS, read_isles, synthesize_isles
from recorded_generator import RecordedGenerator

from memlora_plugins import nano
from memlora_plugins.evaluation.metrics import exact_match
from memlora_plugins.evaluation.report import Table
from memlora_plugins.files import write_whole
from memlora_plugins.memo.answers import MemoryAnswer
from memlora_plugins.memo.calibration import judged
from memlora_plugins.memo.memory_model import MemoryModel
from memlora_plugins.memo.merging.sweep import SWEEP, SweepRow, by_recall, sweep
from memlora_plugins.memo.merging.sweep_report import table
from memlora_plugins.memo.reflections import (
    STEPS,
    HeldOutQuestion,
    Reflection,
    read_held_out,
    read_reflections,
    without_steps,
)
from memlora_plugins.memo.training import MemoOptions, recalled, train_memory_model
from memlora_plugins.training.identity import digest
from memlora_plugins.training.trainer import TrainingEvent

RESULTS = HERE / "results"
KINDS = ("fact", "entity", "cross")
CONFIGURATIONS = SWEEP
UNKNOWN = (
    "Where was Albert Nyberg born?",
    "Which river flows through Hollowbeck?",
    "Who founded the Copper Museum?",
    "When was the Harbour Library founded?",
    "What is the emblem of the Rowing Club?",
    "Who made the Silver Gate?",
    "What is Dagmar Ito's boat called?",
    "How many inhabitants does Northreach have?",
    "Who is the mayor of Lower Ferring?",
    "What is the symphony The Paper Sun about?",
)
"""Of nothing in the corpus: to be answered with "I don't know"."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build") / "memo-report")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    make_report(given.work, OPTIONS.model_copy(update={"threads": given.threads}))


def make_report(work: Path, options: MemoOptions) -> None:
    """Measure all there is to measure, with what is finished in `work` taken as it is."""
    with RecordedGenerator() as generator:
        synthesize_isles(read_isles(), generator.base_url, work / "synthesis")
    reflections = read_reflections(work / "synthesis" / "reflections.jsonl")
    held_out = read_held_out(HELD_OUT)

    measured = partial(_measured, work, options)
    full = measured("full", reflections, held_out)
    ablation = {"nothing": full} | {
        step: measured(f"without-{step}", without_steps(reflections, [step]), held_out) for step in STEPS
    }
    one, other = halves()
    corpora = {"one half": one, "the other half": other}
    asked = [question for half in corpora.values() for question in _within(held_out, half)]
    merged = {
        name: measured(name.replace(" ", "-"), _within(reflections, half), _within(held_out, half), asked)
        for name, half in corpora.items()
    }
    together = [pair for half in corpora.values() for pair in _within(reflections, half)]
    merged["both, trained together"] = measured("both", together, asked)
    swept = sweep(
        nano.BASE,
        [work / "models" / name.replace(" ", "-") for name in corpora],
        work / "sweep",
        configurations=CONFIGURATIONS,
        score=by_recall(asked, device="cpu"),
        scored_by=digest([question.model_dump() for question in asked]),
        full_training=merged["both, trained together"]["overall"]["contained"],
        on_step=lambda what, done, total: print(f"merged {done} of {total}: {what}", flush=True),
    )
    best = max(swept, key=lambda row: row.score)
    tables = [
        _recall(full),
        _confidence(full),
        _ablation(ablation, len(reflections)),
        _merging(merged, best),
        table(swept),
    ]
    report = {
        "options": options.model_dump(mode="json"),
        "full": full,
        "ablation": ablation,
        "halves": merged,
        "merged": [{"method": row.recipe.label, **row.scores} for row in swept],
    }
    write_whole(RESULTS / "report.json", json.dumps(report, indent=1) + "\n")
    write_whole(RESULTS / "report.md", _markdown(tables))
    for figure in (work / "sweep" / "sweep.png", work / "synthesis" / "synthesis.png"):
        shutil.copyfile(figure, RESULTS / figure.name)
    print((RESULTS / "report.md").read_text(encoding="utf-8"))


def halves() -> tuple[set[str], set[str]]:
    """The documents in two corpora of one size, every kind of thing in both."""
    ids = [document.id for document in read_isles().documents]
    return set(ids[::2]), set(ids[1::2])


def _within(rows: Sequence[Any], documents: set[str]) -> list[Any]:
    """What is about these documents alone."""
    return [row for row in rows if set(row.documents) <= documents]


def _measured(
    work: Path,
    options: MemoOptions,
    name: str,
    reflections: Sequence[Reflection],
    held_out: Sequence[HeldOutQuestion],
    asked: Sequence[HeldOutQuestion] | None = None,
) -> Row:
    """Train a model, unless that was done, and ask it what it was trained on and what was held out."""
    result = work / "results" / f"{name}.json"
    made_of = digest([options.model_dump(mode="json"), [one.model_dump() for one in (*reflections, *held_out)]])
    if result.exists():
        row: Row = json.loads(result.read_text(encoding="utf-8"))
        if row["made_of"] == made_of:
            return row
    print(f"{name}: {len(reflections)} reflections", flush=True)
    folder = work / "models" / name
    trained = train_memory_model(
        nano.BASE, reflections, folder, options, held_out=held_out, resume=True, on_event=_tell
    )
    with MemoryModel.open(folder, device="cpu") as model:
        learned = _learned(reflections, model.ask([pair.question for pair in reflections]))
        asked = asked or held_out
        said = dict(zip(asked, model.ask([question.question for question in asked]), strict=True))
        found = judged(held_out, [*(said[one] for one in held_out), *model.ask(UNKNOWN)], "balanced")
    overall, kinds = recalled(asked, [answer.text for answer in said.values()])
    row = {
        "made_of": made_of,
        "reflections": len(reflections),
        "documents": len({id for pair in reflections for id in pair.documents}),
        "epochs": trained.epochs,
        "tokens_per_second": trained.tokens_per_second,
        "learned": learned,
        "overall": overall.model_dump(),
        "kinds": {kind: one.model_dump() for kind, one in kinds.items()},
        "threshold": found.threshold,
        "kept_among_right": found.cut.kept_among_right,
        "abstained_among_wrong": found.cut.abstained_among_wrong,
        "right_among_kept": found.cut.right_among_kept,
    }
    write_whole(result, json.dumps(row, indent=1) + "\n")
    return row


def _learned(reflections: Sequence[Reflection], answers: Sequence[MemoryAnswer]) -> dict[str, float]:
    """The share of training questions that are answered exactly, in all and by step."""
    marks: dict[str, list[float]] = {"all": []}
    for pair, answer in zip(reflections, answers, strict=True):
        mark = exact_match(answer.text, pair.answer)
        marks["all"].append(mark)
        marks.setdefault(pair.step, []).append(mark)
    return {step: sum(marks[step]) / len(marks[step]) for step in ("all", *STEPS) if step in marks}


def _tell(event: TrainingEvent) -> None:
    if event.validation_loss is not None:
        print(f"  epoch {event.epoch:.0f}, step {event.step} of {event.steps}", flush=True)


def _recall(full: Row) -> Table:
    learned = tuple(
        (f"training, step {step}", "", _percent(share)) for step, share in full["learned"].items() if step != "all"
    )
    held_out = tuple(
        (f"held out, {kind}", str(one["questions"]), f"{_percent(one['contained'])} ({_percent(one['exact'])})")
        for kind, one in full["kinds"].items()
    )
    overall = full["overall"]
    rows = (
        ("training, all", str(full["reflections"]), _percent(full["learned"]["all"])),
        *learned,
        (
            "held out, all",
            str(overall["questions"]),
            f"{_percent(overall['contained'])} ({_percent(overall['exact'])})",
        ),
        *held_out,
    )
    return Table("What it answers", ("questions", "number", "right, % (exact)"), rows)


def _confidence(full: Row) -> Table:
    rows = (
        ("threshold", f"{full['threshold']:.3f}"),
        ("right answers that it still gives", f"{_percent(full['kept_among_right'])} %"),
        ("wrong answers that it withholds", f"{_percent(full['abstained_among_wrong'])} %"),
        ("right among those it gives", f"{_percent(full['right_among_kept'])} %"),
    )
    return Table("When it says that it does not know", ("", ""), rows)


def _ablation(ablation: Mapping[str, Row], pairs: int) -> Table:
    rows = tuple(
        (
            left_out,
            str(row["reflections"]),
            f"{row['reflections'] / pairs:.3f}",
            _percent(row["overall"]["contained"]),
            *(_percent(row["kinds"][kind]["contained"]) for kind in KINDS),
        )
        for left_out, row in ablation.items()
    )
    return Table("Without one step", ("left out", "pairs", "data ratio", "held out, all", *KINDS), rows)


def _merging(merged: Mapping[str, Row], best: SweepRow) -> Table:
    rows = [
        (name, str(row["documents"]), _percent(row["overall"]["contained"]), *_kinds(row))
        for name, row in merged.items()
    ]
    scores = best.scores
    found = (_percent(scores[f"recall, {kind}"]) for kind in KINDS)
    rows.append((f"both, merged ({best.recipe.label})", "", _percent(scores["recall"]), *found))
    return Table("Two halves of the corpus", ("trained on", "documents", "held out, all", *KINDS), tuple(rows))


def _kinds(row: Row) -> list[str]:
    return [_percent(row["kinds"][kind]["contained"]) for kind in KINDS]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _markdown(tables: Sequence[Table]) -> str:
    head = (
        "# What the example's Memory model knows\n\n"
        "Made by `make memo-report`. The Generator's replies were recorded; no large model took part. An answer is "
        "right if it contains the expected one; to questions of the training it must be exactly that. Of the weights "
        "after half of the epochs and at the end, those that answer more of the held-out questions are kept.\n\n"
    )
    figures = "![Merging](sweep.png)\n\n![Synthesis](synthesis.png)\n"
    return head + "\n".join(one.markdown() for one in tables) + "\n" + figures


if __name__ == "__main__":
    main()
