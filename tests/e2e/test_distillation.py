"""From a teacher to experts that answer: distilled, trained, served and measured, all by `memlora`.

The teacher is a fake on loopback; training, vLLM, the stores and MiniLM are real. The student is the tiny model, which
learns a handful of replies by heart and no more, so the conversations of every split are different ones that say the
same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import run_memlora
from fake_teacher import fake_teacher
from tiny_model import TinyModel

from memlora_plugins.evaluation.pipeline import PipelineResult
from memlora_plugins.serving.server import VLLMServer
from memlora_plugins.training.dataset import read_samples
from memlora_plugins.training.teacher import DistilReport

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning"),
]

EXPERTS = ("extraction", "update", "generation")
MOVES = (("Ana", "Lisbon", "Porto"), ("Maria", "Porto", "Lisbon"), ("Ben", "May", "Lisbon"))
LEARNING = (
    "--rank 8 --alpha 32 --dropout 0 --learning-rate 1e-2 --batch-size 3 --epochs 100 --eval-every 25 --device cpu"
)
"""Options with which the tiny model learns the replies to three conversations in a few seconds."""


def names(split: str) -> list[str]:
    return [f"{split}-{name}" for name, _, _ in MOVES]


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine conversations: where somebody lives, weeks later where they moved to, and a question about it."""
    rows: list[dict[str, Any]] = []
    for split in ("train", "validation", "test"):
        for talk, (name, old, new) in zip(names(split), MOVES, strict=True):
            for date, text in (("2025-05-02", f"I live in {old}."), ("2025-06-03", f"I live in {new}. I like tea.")):
                said = {"role": "user", "name": name, "content": text, "created_at": date}
                rows.append({"conversation": talk, "session": date, **said})
            rows.append({"conversation": talk, "question": f"Where does {name} live?", "answer": new})
    file = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def samples(talks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the teacher made of the conversations, in one folder for each split."""
    out = tmp_path_factory.mktemp("samples")
    with fake_teacher() as teacher:
        words = ["distil", str(talks), "--base-url", teacher.base_url, "--model", teacher.model, "--out", str(out)]
        words += [word for split in ("train", "validation", "test") for word in (f"--{split}", ",".join(names(split)))]
        told = json.loads(run_memlora(*words, "--json").stdout)
    reports = {split: DistilReport.model_validate(report) for split, report in told.items()}
    assert list(reports) == ["train", "validation"]  # nobody was asked about the test conversations
    for report in reports.values():
        assert {expert: data.samples for expert, data in report.experts.items()} == {
            "extraction": 6,
            "update": 3,
            "generation": 3,
        }
    return out


@pytest.fixture(scope="module")
def experts(samples: Path, tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained adapters."""
    folder = tmp_path_factory.mktemp("experts")
    for expert in EXPERTS:
        words = ["train", "--expert", expert, "--base", str(tiny_model.path), "--out", str(folder / expert)]
        words += [
            word
            for option, split in (("--data", "train"), ("--validation", "validation"))
            for word in (option, str(samples / split / f"{expert}.jsonl"))
        ]
        run_memlora(*words, *LEARNING.split())
    return {expert: folder / expert for expert in EXPERTS}


def test_the_samples_are_clean_and_apart(samples: Path) -> None:
    for expert in EXPERTS:
        split = {part: read_samples(samples / part / f"{expert}.jsonl") for part in ("train", "validation")}
        assert {part: {sample.conversation for sample in found} for part, found in split.items()} == {
            part: set(names(part)) for part in split
        }
        assert not any("<think>" in sample.reply for found in split.values() for sample in found)
    update = json.loads(read_samples(samples / "train" / "update.jsonl")[0].reply)
    assert [item["event"] for item in update["memory"]] == ["UPDATE", "ADD"]  # the teacher's NONE are gone


def test_served_and_in_process_they_answer_where_the_base_does_not(
    exact_vllm_server: VLLMServer, tiny_model: TinyModel, experts: dict[str, Path], talks: Path
) -> None:
    def measured(*model: str) -> PipelineResult:
        words = ["eval", "pipeline", "--data", str(talks), *model, "--json"]
        words += [word for name in names("test") for word in ("--conversation", name)]
        return PipelineResult.model_validate_json(run_memlora(*words).stdout)

    adapters = [f"--adapter={expert}={folder}" for expert, folder in experts.items()]
    served = measured("--base", exact_vllm_server.model, "--base-url", exact_vllm_server.base_url, *adapters)
    in_process = measured("--base", str(tiny_model.path), *adapters)
    base = measured("--base", str(tiny_model.path))
    assert served.score == in_process.score == 1.0
    assert base.score < 0.5
    for result in (served, in_process):
        assert (result.events, result.facts) == ({"ADD": 6, "UPDATE": 3}, 6)
        assert (result.pending, result.failures) == (0, ())
    assert [said.answer for said in served.answers] == [said.answer for said in in_process.answers]
    # not their output tokens: only the server counts the end of a reply under a grammar
    asked = [
        {expert: (used.calls, used.input_tokens) for expert, used in one.usage.items()} for one in (served, in_process)
    ]
    assert asked[0] == asked[1]
