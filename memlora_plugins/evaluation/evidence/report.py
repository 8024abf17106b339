"""A comparison of ways to search a memory, as JSON, Markdown and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ...files import write_whole
from .. import plots
from ..report import Table, told
from .rankings import Measured

if TYPE_CHECKING:
    from ..statistics import Interval
    from .recall import EvidenceMean

RESULT_FILE, REPORT_FILE, FIGURE_FILE = "retrieval.json", "report.md", "retrieval.png"


class RetrievalRun(BaseModel):
    """Everything that was measured, and of what: `command` repeats it, `data_sha256` is of the file, `splits` the
    parts of LoCoMo that were asked for, `kept` how many turns, facts or paragraphs there were, `store` and `embedder`
    what they were kept in and with. `categories` names the groups of questions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: str
    data: str
    data_sha256: str
    splits: tuple[str, ...] = ()
    conversations: tuple[str, ...]
    kept: dict[str, int]
    store: str
    embedder: str
    ks: tuple[int, ...]
    categories: dict[int, str]
    measured: tuple[Measured, ...]

    def write(self, folder: Path) -> list[Path]:
        """Write JSON, Markdown and, where matplotlib is installed, the figure into `folder`; returns the files.

        Raises:
            OSError: a file cannot be written.
        """
        drawn = plots.available()
        result, report, figure = folder / RESULT_FILE, folder / REPORT_FILE, folder / FIGURE_FILE
        write_whole(result, self.model_dump_json(indent=1) + "\n")
        write_whole(report, self.markdown(drawn=drawn))
        if not drawn:
            return [result, report]
        draw(self, figure)
        return [result, report, figure]

    def markdown(self, *, drawn: bool) -> str:
        """The report: the command, what was measured, and the tables."""
        questions = max(one.score.questions for one in self.measured)
        what = f"{', '.join(self.splits)}: " if self.splits else ""
        talks = f"; {what}{', '.join(self.conversations)}" if self.conversations else ""
        shown = [
            "# Evidence found",
            f"    {self.command}",
            f"{questions} questions with evidence of {self.data} (SHA-256 {self.data_sha256[:16]}…{talks}). "
            f"{', '.join(f'{count} {what}' for what, count in self.kept.items())} in {self.store}, embedded by "
            f"{self.embedder}; no language model. A fact or paragraph has no neighbours but itself. In brackets, the "
            "95 % bootstrap interval over the questions.",
            plots.markdown("Recall and nDCG by setting", FIGURE_FILE, drawn=drawn),
            *(table.markdown().rstrip() for table in tables(self)),
        ]
        return "\n\n".join(shown) + "\n"


def tables(run: RetrievalRun) -> list[Table]:
    """Recall and nDCG of every setting, with intervals; then each by category."""
    made = [
        Table(
            "All questions",
            ("searched", "ranking", *(f"recall@{k}" for k in run.ks), *(f"nDCG@{k}" for k in run.ks)),
            tuple(
                (one.unit, one.setting, *(told(of[k]) for of in (one.score.recall, one.score.ndcg) for k in run.ks))
                for one in run.measured
            ),
        )
    ]
    categories = sorted({category for one in run.measured for category in one.score.by_category})
    if len(categories) > 1:
        counts = {category: run.measured[0].score.by_category[category].questions for category in categories}
        columns = [f"{run.categories[category]} ({counts[category]})" for category in categories]
        made += [
            Table(
                f"{name}@{k} by category",
                ("searched", "ranking", *columns),
                tuple(
                    (one.unit, one.setting, *(f"{_of(one.score.by_category[c], name)[k].mean:.3f}" for c in categories))
                    for one in run.measured
                ),
            )
            for name in ("Recall", "nDCG")
            for k in run.ks
        ]
    return made


def _of(mean: EvidenceMean, name: str) -> Mapping[int, Interval]:
    return mean.ndcg if name == "nDCG" else mean.recall


def draw(run: RetrievalRun, file: Path) -> None:
    """Recall and nDCG by setting, a point with its interval for each number of items.

    Raises:
        OSError: the file cannot be written.
    """
    names = [f"{one.unit}: {one.setting}" for one in run.measured]
    made = plots.figure(11, 1.6 + 0.3 * len(names))
    axes: Any = made.subplots(1, 2, sharey=True)
    for panel, name in zip(axes, ("Recall", "nDCG"), strict=True):
        for place, k in enumerate(run.ks):
            means = [_of(one.score, name)[k] for one in run.measured]
            shift = 0.25 * (place - (len(run.ks) - 1) / 2)
            panel.errorbar(
                [interval.mean for interval in means],
                [row + shift for row in range(len(names))],
                xerr=plots.errors(means),
                fmt="o",
                markersize=4,
                capsize=2,
                label=f"{name}@{k}",
            )
        panel.set_xlabel(f"{name} of the evidence")
        panel.grid(axis="x", alpha=0.3)
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(run.ks), frameon=False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    plots.save(made, file)
