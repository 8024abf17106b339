"""`memlora eval locomo`: a student, and several of a config, over fake servers of model and judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import invented_locomo
import pytest
from commands import Memlora
from fake_server import FakeModelServer
from tiny_model import TinyModel


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return invented_locomo.write(tmp_path / "locomo.json")


@pytest.fixture
def server(model_server: FakeModelServer) -> FakeModelServer:
    return invented_locomo.serve(model_server)


@pytest.fixture
def words(server: FakeModelServer, file: Path) -> list[str]:
    given = ["eval", "locomo", str(file), "--out", "out", "--base", server.model, "--base-url", server.base_url]
    for stage in server.adapters:
        given += ["--adapter", f"{stage}={stage}"]
    return given


def test_one_student_stage_by_stage(
    memlora: Memlora, words: list[str], server: FakeModelServer, tmp_path: Path
) -> None:
    done = memlora(*words, "--stages", "--conversation", "conv-b")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["base", "n/a", "n/a", "0.250", "0.000", "0.500", "2"] in lines
    assert ["+", "generation", "n/a", "n/a", "1.000", "1.000", "1.000", *["+0.750", "(+300%)"] * 2, "2"] in lines
    for told in (
        "J: not available: no judge is named",
        "L: not available: it is the mean of four parts",
        "Input tokens per call",
        "Category 5, adversarial questions",
        "Written: out/report.md",
    ):
        assert told in done.stdout
    report = (tmp_path / "out" / "report.md").read_text()
    command = "    memlora eval locomo locomo.json --out out --base base --base-url"
    assert report.startswith(f"# LoCoMo\n\n{command} {server.base_url} --adapter extraction=extraction")
    assert str(tmp_path) not in report + (tmp_path / "out" / "summary.json").read_text()
    asked = len(server.requests)
    told = json.loads(memlora(*words, "--stages", "--conversation", "conv-b", "--json").stdout)
    assert len(server.requests) == asked
    assert [row["label"] for row in told["rows"]] == ["base", "+ extraction", "+ update", "+ generation"]
    changed = memlora(*words[:-1], "generation=update", "--stages", "--conversation", "conv-b", code=1)
    assert "another student base (+ generation)" in changed.stderr


def test_students_and_judge_of_a_config(
    memlora: Memlora, server: FakeModelServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_JUDGE_API_KEY", "key-of-the-judge")
    adapters = ", ".join(f'{stage} = "{stage}"' for stage in server.adapters)
    config = tmp_path / "eval.toml"
    with FakeModelServer(model="large") as judge:
        config.write_text(f"""
            [[student]]
            name = "small"
            base = "{server.model}"
            base_url = "{server.base_url}"
            adapters = {{ {adapters} }}

            [[student]]
            name = "teacher"
            base = "{server.model}"
            base_url = "{server.base_url}"
            api = "openai"

            [judge]
            base_url = "{judge.base_url}"
            model = "large"
        """)
        said = ["eval", "locomo", str(file), "-o", "out", "--config", str(config)]
        done = memlora(*said)
        assert judge.headers["authorization"] == "Bearer key-of-the-judge"
        named = ["--judge-url", judge.base_url, "--judge-model", "other"]
        judge.adapters["other"] = "/o"
        other = json.loads(memlora(*said, *named, "--json").stdout)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["small:", "experts", "1.000", "n/a", "1.000", "1.000", "1.000"] in [line[:7] for line in lines]
    assert ["teacher,", "base", "1.000", "n/a", "0.250"] in [line[:5] for line in lines]
    assert "judged by large" in done.stdout
    assert (other["judge"], other["changes_by"]) == ("other", "J")


def test_a_model_in_process(memlora: Memlora, tiny_nano: TinyModel, file: Path, tmp_path: Path) -> None:
    talk: Any = invented_locomo.talk("conv-26", "Ana", "Ben", sessions=1)
    invented_locomo.write(file, [talk])
    words = ["eval", "locomo", str(file), "--out", "out", "--base", "nano", "--split", "validation", "--json"]
    told = json.loads(memlora(*words).stdout)
    assert [row["row"] for row in told["rows"]] == ["base", "experts"]
    assert told["students"] == {"nano": "nano"}
    assert told["split"] == "validation"
    assert sorted(told["rows"][1]["experts"]) == ["extraction", "generation", "update"]
    assert all(name.partition("@")[0] == stage for stage, name in told["rows"][1]["experts"].items())


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--config", "eval.toml"], 2, "not both"),
        (["--conversation", "conv-z"], 1, "No conversation conv-z. There are: conv-a, conv-b."),
        (["--split", "test"], 1, "The test split is conv-30, conv-41"),
        (["--adapter", "vision=x"], 2, "no stage of the pipeline"),
        (["--api", "openai"], 2, "serves no adapters"),
        (["--judge-url", "http://127.0.0.1:9"], 2, "belong together"),
        (["--corrected", "none.json"], 1, "none.json cannot be read"),
    ],
)
def test_wrong_usage(memlora: Memlora, words: list[str], more: list[str], code: int, message: str) -> None:
    assert message in " ".join(memlora(*words, *more, code=code).stderr.replace("│", "").split())


def test_neither_student_nor_config(memlora: Memlora, file: Path) -> None:
    assert "name a student with --base" in memlora("eval", "locomo", str(file), "--out", "out", code=2).stderr


def test_a_server_that_is_down(memlora: Memlora, words: list[str], server: FakeModelServer) -> None:
    server.stop()
    assert "error: No model server answers" in memlora(*words, code=1).stderr
