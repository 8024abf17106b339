"""`memlora train search`, with the tiny model: one configuration, two steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Memlora
from fake_server import FakeModelServer
from tiny_model import TinyModel

from memlora_plugins.training.dataset import ChatLine, Sample, write_samples

Words = Callable[..., list[str]]


@pytest.fixture
def words(tiny_model: TinyModel, tmp_path: Path) -> Words:
    """The command over samples and conversations in files; more words are added."""
    for split in ("train", "validation"):
        samples = [
            Sample(
                id=f"{split}-{number}",
                expert="generation",
                conversation=f"{split}-1",
                messages=(ChatLine(role="user", content=f"Which colour is boat {number}?"),),
                reply="red",
            )
            for number in range(2)
        ]
        write_samples(tmp_path / "data" / split / "generation.jsonl", samples)
    rows = [
        row
        for id in ("validation-1", "test-1")
        for row in (
            {"role": "assistant", "content": "The boat is red.", "conversation": id, "created_at": "2025-05-02"},
            {"question": "Which colour is the boat?", "answer": "red", "conversation": id},
        )
    ]
    talks = tmp_path / "talks.jsonl"
    talks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "base": tiny_model.path,
        "data": tmp_path / "data",
        "conversations": talks,
        "validation-conversation": "validation-1",
        "test-conversation": "test-1",
        "learning-rate": "1e-3",
        "batch-size": 2,
        "expert": "generation",
        "max-steps": 2,
        "out": tmp_path / "out",
    }

    def words(*more: str, **changed: object) -> list[str]:
        values = given | {name.replace("_", "-"): value for name, value in changed.items()}
        return [
            "train",
            "search",
            *(word for name, value in values.items() for word in (f"--{name}", str(value))),
            *more,
        ]

    return words


def test_a_search_from_files_to_adapters(memlora: Memlora, words: Words, tmp_path: Path) -> None:
    done = memlora(*words("--device-batch-size", "1"))
    adapter = tmp_path / "out" / "generation" / "lr0.001-bs2" / "adapter"
    assert f"--adapter generation={adapter}" in done.stdout
    for told in ("Runs", "Combinations", "Scores", "Input tokens per call", "best, held-out", "summary.md"):
        assert told in done.stdout
    assert (adapter / "adapter_model.safetensors").is_file()
    assert json.loads((adapter / "memlora.json").read_text())["options"]["device_batch_size"] == 1
    assert (tmp_path / "out" / "search.png").is_file()
    report = json.loads(memlora(*words("--json")).stdout)  # nothing is left to do
    assert report["best"] == {"generation": "lr0.001-bs2"}
    assert [run["split"] for run in report["runs"]] == ["validation", "validation", "held-out"]
    assert report["runs"][1]["validation_loss"] > 0


def test_pipelines_may_be_measured_on_a_server(memlora: Memlora, words: Words, model_server: FakeModelServer) -> None:
    model_server.reply("generation", lambda body: "red" if "@" in body["model"] else "I do not know")
    over = words("--json", base_url=model_server.base_url, served_as=model_server.model)
    report = json.loads(memlora(*over).stdout)
    assert [run["score"] for run in report["runs"]] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_conversation": "validation-1"}, "validation-1 in both validation and held-out"),
        ({"validation_conversation": "cleo"}, "No conversation cleo"),
        ({"expert": "update"}, "update.jsonl cannot be read"),
        ({"learning_rate": "0"}, "Unusable option. learning_rates.0: Input should be greater than 0"),
        ({"seed": str(2**40)}, "Unusable option. seed"),
    ],
)
def test_what_cannot_be_searched_is_said(memlora: Memlora, words: Words, changed: dict[str, str], message: str) -> None:
    assert message in memlora(*words(**changed), code=1).stderr
