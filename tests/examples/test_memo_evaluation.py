"""The sample configuration of `memlora eval memo`: it is read as it is, with all that it offers, and it runs."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import hops_models
from commands import run_memlora
from compare import ScriptedExecutive
from fake_server import FakeModelServer

from memlora_plugins.evaluation.harness.config_file import read_config
from memlora_plugins.evaluation.memo_qa.config import BASELINES, PROTOCOLS, MemoConfig
from memlora_plugins.memo.protocol import Budgets, Temperatures

SAMPLE = Path(__file__).parents[2] / "examples" / "memo" / "evaluation.toml"


def test_the_sample_is_read_and_names_nothing_but_loopback() -> None:
    config = read_config(SAMPLE, MemoConfig)
    assert config.questions.is_file()
    assert config.corpus is not None
    assert config.corpus.is_dir()
    assert config.baselines == BASELINES
    assert config.judge is not None
    for address in re.findall(r"https?://[^\"/]*", SAMPLE.read_text(encoding="utf-8")):
        assert address.startswith("http://127.0.0.1:")


def test_what_it_leaves_out_can_be_put_in(tmp_path: Path) -> None:
    text, count = re.subn(r"^# (?=\[|\w+ = )", "", SAMPLE.read_text(encoding="utf-8"), flags=re.M)
    assert count > 20
    (tmp_path / "whole.toml").write_text(text, encoding="utf-8")
    config = read_config(tmp_path / "whole.toml", MemoConfig)
    assert (config.budgets, config.temperatures) == (Budgets(), Temperatures()), "what it shows is the paper's"
    assert config.memory[0].protocols == PROTOCOLS
    assert config.memory[1].temperatures == Temperatures(answer=0.4)


def test_the_sample_runs(tmp_path: Path) -> None:
    """With a script as the Executive, a fake Memory model that says one thing to everything, and a fake judge."""
    text = SAMPLE.read_text(encoding="utf-8")
    with ExitStack() as opened:
        executive = opened.enter_context(ScriptedExecutive())
        judge = opened.enter_context(hops_models.judge())
        memory = opened.enter_context(FakeModelServer(model="memory"))
        memory.reply("memory", "Calder Quay")
        for old, new in (
            ("http://127.0.0.1:8000", memory.base_url),
            ("http://127.0.0.1:8001", executive.base_url),
            ("http://127.0.0.1:8002", judge.base_url),
            ('"Qwen/Qwen2.5-72B-Instruct"', '"strict"'),
            ("# limit = 20 ", "limit = 2 "),
            ("runs = 3 ", "runs = 1 "),
            ('"held_out.jsonl"', json.dumps(str(SAMPLE.parent / "held_out.jsonl"))),
            ('"corpus"', json.dumps(str(SAMPLE.parent / "corpus"))),
        ):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "evaluation.toml").write_text(text, encoding="utf-8")
        run_memlora("eval", "memo", "evaluation.toml", "--out", "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    scores = {row["method"]: row for row in found["scores"]}
    assert list(scores) == [
        *BASELINES,
        "MeMo nano, structured",
        "MeMo nano, single-turn",
        "MeMo nano, unstructured",
        "MeMo nano, in haste, structured",
    ]
    assert all(row["failed"] == row["unanswered"] == 0 for row in scores.values())
    assert scores["no context"]["scores"]["contains"]["mean"] == 0.0
    assert scores["perfect retrieval"]["scores"]["contains"]["mean"] == 0.5, "the script chose one sentence of two well"
    assert scores["MeMo nano, structured"]["accuracy"]["mean"] == 0.5, "one of the two answers is what it always says"
    assert [one["budgets"]["entity"] for one in found["memory"]] == [7, 2]
