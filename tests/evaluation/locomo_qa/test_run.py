"""A measurement on invented conversations, from the file to the report; the models are fakes on loopback."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import invented_locomo
import pytest
from fake_server import FakeModelServer, Fault
from pydantic import ValidationError
from scripted import WordEmbedder

from memlora_plugins.errors import DatasetError, InvalidInputError, SettingsError
from memlora_plugins.evaluation.harness.config_file import read_config
from memlora_plugins.evaluation.locomo_qa import run as locomo_run
from memlora_plugins.evaluation.locomo_qa.config import LocomoConfig
from memlora_plugins.evaluation.locomo_qa.report import LocomoSummary, tables
from memlora_plugins.evaluation.similarity import PARTS
from memlora_plugins.serving.openai_compatible import OpenAIBackend

STAGES = ("extraction", "update", "generation")


class Parts:
    """In place of `Similarity`, whose models take seconds to load: a part is 1 for equal texts and 0 for others."""

    missing: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, **made_with: Any) -> None:
        self.made_with = {part: "equal texts" for part in PARTS if part not in self.missing}
        self.given = made_with

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None: ...

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        return [dict.fromkeys(self.made_with, float(said == right)) for said, right in pairs]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeModelServer]:
    monkeypatch.setattr(locomo_run, "Similarity", Parts)
    with FakeModelServer(adapters=dict.fromkeys(STAGES, "/somewhere")) as server:
        yield invented_locomo.serve(server)


@pytest.fixture
def judge() -> Iterator[FakeModelServer]:
    """A fake judge: an answer is right if the right one is in it."""
    with FakeModelServer(model="judge") as server:

        def verdict(body: dict[str, Any]) -> str:
            data = json.loads("{" + body["messages"][0]["content"].partition("\n{")[2].rpartition("}\n")[0] + "}")
            right = any(one in data["given answer"] for one in data["right answers"])
            return json.dumps({"reason": "", "label": "CORRECT" if right else "WRONG"})

        server.reply("judge", verdict)
        yield server


def config(server: FakeModelServer, *names: str, **more: Any) -> LocomoConfig:
    student = {"base": server.model, "base_url": server.base_url, "adapters": {one: one for one in STAGES}}
    students = [{"name": name, **student, "stages": name == "student"} for name in names or ("student",)]
    return LocomoConfig.model_validate({"student": students, **more})


def measure(
    file: Path, said: LocomoConfig, out: Path, judge: FakeModelServer | None = None, **more: Any
) -> LocomoSummary:
    backend = None if judge is None else OpenAIBackend(judge.base_url, judge.model)
    data = locomo_run.material(file, **more)
    return locomo_run.measure(said, data, WordEmbedder(), out, judge=backend, command="memlora eval locomo x")[0]


def rows(summary: LocomoSummary, title: str, **options: Any) -> list[tuple[str, ...]]:
    return [row for table in tables(summary, **options) if table.title == title for row in table.rows]


def test_the_tables_of_the_paper(server: FakeModelServer, judge: FakeModelServer, tmp_path: Path) -> None:
    file = invented_locomo.write(tmp_path / "locomo.json")
    out = tmp_path / "out"
    summary = measure(file, config(server, "student", "other"), out, judge)
    labels = ["student: base", "student: + extraction", "student: + update", "student: + generation"]
    assert [row.label for row in summary.rows] == [*labels, "other: base", "other: experts"]
    scores = rows(summary, "Scores, categories 1 to 4", intervals=False)
    assert scores[0] == ("student: base", "0.500", "0.000", "0.250", "0.000", "0.500", "", "", "4")
    assert scores[3] == ("student: + generation", *["1.000"] * 5, "+0.500", "+0.500", "4"), (
        "four are too few for a share"
    )
    assert rows(summary, "Scores, categories 1 to 4")[3][6] == "+0.500 [+0.000, +1.000]"
    for name in ("J", "L", "token F1"):
        assert rows(summary, f"{name} by category")[3][1:] == ("1.000 [1.000, 1.000]", "1.000 [1.000, 1.000]")
    assert rows(summary, "Students", intervals=False) == [
        ("student, base", "0.500", "0.000", "0.250", ""),
        ("student, with its experts", "1.000", "1.000", "1.000", "+0.500"),
        ("other, base", "0.500", "0.000", "0.250", ""),
        ("other, with its experts", "1.000", "1.000", "1.000", "+0.500"),
    ]
    settings = rows(summary, "Settings of the memories")[0]
    assert (len(settings), "the default" in settings) == (1 + len(summary.rows[0].settings), True)
    adversarial = rows(summary, "Category 5, adversarial questions", intervals=False)
    assert adversarial[0] == ("student: base", "0.000", "0.500", "4", "4")
    assert adversarial[3] == ("student: + generation", "1.000", "0.000", "4", "4")
    assert len(rows(summary, "Input tokens per call")) == 6
    assert (summary.judge, summary.changes_by, summary.unavailable) == ("judge", "J", {})

    report = (out / "report.md").read_text()
    assert report.startswith("# LoCoMo\n\n    memlora eval locomo x\n\n")
    for told in (
        "embedded by fake-words; judged by judge",
        "models on a server, 8 calls at once; memlora-plugins 0.",
        "conv-a, conv-b",
        "## The whole file",
        "| turns | 8 |",
        "A percentage of the earlier score stands behind one only where its interval has a width and excludes 0.",
        "says it is not known: an answer leaves its question open if",
    ):
        assert told in report
    assert {path.name for path in out.glob("*.png")} == {"categories.png", "rows.png"}
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 6 * 8
    assert answers[0]["verdict"]["correct"] is True
    assert LocomoSummary.model_validate_json((out / "summary.json").read_text()) == summary


def test_no_word_of_the_conversations_is_in_what_is_shown(server: FakeModelServer, tmp_path: Path) -> None:
    server.reply("extraction", "the cello is red and I cannot say that in JSON")
    file = invented_locomo.write(tmp_path / "locomo.json")
    summary = measure(file, config(server), tmp_path / "out")
    assert rows(summary, "What failed")[0] == ("base", "extraction", "ReplyError", "8")
    shown = (tmp_path / "out" / "report.md").read_text() + (tmp_path / "out" / "summary.json").read_text()
    assert not [word for word in ("cello", "bicycle", "Ana", "Leo", "I think", str(tmp_path)) if word in shown]


def test_it_is_scored_again_when_what_was_missing_is_there(
    server: FakeModelServer, judge: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = invented_locomo.write(tmp_path / "locomo.json"), tmp_path / "out"
    monkeypatch.setattr(Parts, "missing", {"meteor": "WordNet is not here; install it"})
    first = measure(file, config(server), out)
    report = (out / "report.md").read_text()
    assert "J: not available: no judge is named" in report
    assert "L: not available: it is the mean of four parts, and never of some: meteor missing" in report
    assert "METEOR: not available: WordNet is not here; install it" in report
    assert rows(first, "Scores, categories 1 to 4")[0][1:3] == ("n/a", "n/a")
    assert rows(first, "The parts of L", intervals=False)[0] == ("base", "0.000", "n/a", "0.000", "0.000")
    assert first.changes_by == "token_f1"

    monkeypatch.setattr(Parts, "missing", {})
    server.stop()
    second = measure(file, config(server), out, judge)
    assert (second.changes_by, second.unavailable) == ("J", {})
    asked = len(judge.requests)
    assert measure(file, config(server), out, judge) == second
    assert len(judge.requests) == asked, "verdicts are kept"


def test_a_judge_that_gives_no_label_is_told(server: FakeModelServer, judge: FakeModelServer, tmp_path: Path) -> None:
    judge.reply("judge", "I would rather not say.")
    file = invented_locomo.write(tmp_path / "locomo.json")
    summary = measure(file, config(server), tmp_path / "out", judge)
    assert summary.changes_by == "L"
    assert "J: not available: none of 16 answers could be judged" in (tmp_path / "out" / "report.md").read_text()


def test_an_answer_without_a_verdict_is_told_where_j_is(
    server: FakeModelServer, judge: FakeModelServer, tmp_path: Path
) -> None:
    def verdict(body: dict[str, Any]) -> str:
        prompt = str(body["messages"][0]["content"])
        return "hm" if "cello of Ana" in prompt and "red, I think" in prompt else '{"reason": "", "label": "CORRECT"}'

    judge.reply("judge", verdict)
    summary = measure(invented_locomo.write(tmp_path / "locomo.json"), config(server), tmp_path / "out", judge)
    base, *_, last = rows(summary, "Scores, categories 1 to 4", intervals=False)
    assert (base[1], last[1]) == ("1.000 (1 not judged)", "1.000")
    assert summary.rows[-1].over_base is not None
    assert (summary.rows[-1].over_base.questions, summary.rows[-1].over_base.points.mean) == (3, 0.0)


def test_a_judge_is_tried_before_the_models_are_asked(
    server: FakeModelServer, judge: FakeModelServer, tmp_path: Path
) -> None:
    """By one easy answer: hours of work must not end with a wrong key. Where all is answered, there is no need."""
    file, out = invented_locomo.write(tmp_path / "locomo.json"), tmp_path / "out"
    told: list[tuple[str, int]] = []

    def again(said: LocomoConfig) -> LocomoSummary:
        told.clear()
        return locomo_run.measure(
            said,
            locomo_run.material(file),
            WordEmbedder(),
            out,
            judge=OpenAIBackend(judge.base_url, judge.model),
            on_note=lambda line: told.append((line, len(server.requests))),
        )[0]

    judge.fail(Fault(status=401, message="no such key"))
    first = again(config(server))
    assert first.changes_by == "J", "the models are asked all the same, and later it could be asked"
    [(line, asked)] = told
    assert line.startswith("The judge cannot mark an easy answer (")
    assert "no such key" in line
    assert asked == 0
    times = len(judge.requests)
    assert again(config(server)) == first
    assert (told, len(judge.requests)) == ([], times)
    for reply, why in (("hm", "label"), ('{"reason": "", "label": "WRONG"}', "it marks a right answer as wrong")):
        judge.reply("judge", reply)
        before = len(server.requests)
        again(config(server, "student", why))
        assert (why in told[0][0], told[0][1]) == (True, before)


def test_no_path_of_a_judge_is_shown(server: FakeModelServer, judge: FakeModelServer, tmp_path: Path) -> None:
    """A server may call it by a path of its own."""
    file, out = invented_locomo.write(tmp_path / "locomo.json"), tmp_path / "out"
    name = str(tmp_path / "somebody" / "strict")
    judge.adapters[name] = "/somewhere"
    data, backend = locomo_run.material(file), OpenAIBackend(judge.base_url, name)
    summary, _ = locomo_run.measure(config(server), data, WordEmbedder(), out, judge=backend)
    assert (summary.judge, summary.changes_by) == ("strict", "J")
    assert "somebody" not in "".join((out / name).read_text() for name in ("report.md", "summary.json", "run.json"))


def test_a_ranking_is_shown_by_what_is_not_the_default(
    server: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_RANKING", '{"named": 0.4, "fusion": "rrf"}')
    summary = measure(invented_locomo.write(tmp_path / "locomo.json"), config(server), tmp_path / "out")
    assert "fusion rrf, named 0.4" in rows(summary, "Settings of the memories")[0]
    assert LocomoSummary.model_validate_json((tmp_path / "out" / "summary.json").read_text()) == summary


def test_a_judge_out_of_reach_leaves_a_report_and_is_asked_later(
    server: FakeModelServer, judge: FakeModelServer, tmp_path: Path
) -> None:
    file, out = invented_locomo.write(tmp_path / "locomo.json"), tmp_path / "out"
    judge.fail(*[Fault(status=503)] * 200)
    first = measure(file, config(server), out, judge)
    assert first.changes_by == "L"
    assert "J: not available: the judge cannot be asked (BackendUnavailableError)" in (out / "report.md").read_text()
    judge._faults.clear()
    asked = len(server.requests)
    server.stop()
    assert measure(file, config(server), out, judge).changes_by == "J"
    assert len(server.requests) == asked


def test_what_is_missing_is_told_before_a_model_is_asked(
    server: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parts, "missing", {"meteor": "WordNet is not here; install it"})
    data = locomo_run.material(invented_locomo.write(tmp_path / "locomo.json"))
    told: list[tuple[str, int]] = []
    locomo_run.measure(
        config(server),
        data,
        WordEmbedder(),
        tmp_path / "out",
        on_note=lambda line: told.append((line, len(server.requests))),
    )
    assert [line.partition(":")[0] for line, _ in told] == ["J", "L", "METEOR"]
    assert {asked for _, asked in told} == {0}


def test_splits_conversations_and_corrected_answers(server: FakeModelServer, tmp_path: Path) -> None:
    talks = [invented_locomo.talk(id, "Ana", "Ben") for id in ("conv-26", "conv-30", "conv-41")]
    file = invented_locomo.write(tmp_path / "locomo.json", talks)
    assert [talk.id for talk in locomo_run.material(file).conversations] == ["conv-26", "conv-30", "conv-41"]
    assert [talk.id for talk in locomo_run.material(file, split="test").conversations] == ["conv-30", "conv-41"]
    assert [talk.id for talk in locomo_run.material(file, ids=["conv-41"]).conversations] == ["conv-41"]
    with pytest.raises(InvalidInputError, match="No conversation conv-26"):
        locomo_run.material(file, split="test", ids=["conv-26"])
    first = measure(file, config(server), tmp_path / "out", ids=["conv-26"])
    better = tmp_path / "corrected.jsonl"
    row = {"conversation": "conv-26", "question": "Which colour is the bicycle of Ana?", "answer": "red, I think"}
    better.write_text(json.dumps(row) + "\n")
    asked = len(server.requests)
    second = measure(file, config(server), tmp_path / "out", ids=["conv-26"], corrected=better)
    assert len(server.requests) == asked, "what is right was corrected, not what was said"
    assert second.rows[0].overall.means["exact_match"].mean > first.rows[0].overall.means["exact_match"].mean
    assert second.corrections == {"changed": 1, "left_out": 0, "confirmed": 0}
    assert second.corrections_sha256 == hashlib.sha256(better.read_bytes()).hexdigest()
    assert "1 changed, 0 left out, 0 confirmed in the whole file" in (tmp_path / "out" / "report.md").read_text()
    better.write_text("".join(json.dumps(row | {"conversation": id}) + "\n" for id in ("conv-26", "conv-41")))
    one = locomo_run.material(file, ids=["conv-26"], corrected=better)
    assert [talk.questions[2].answer for talk in one.conversations] == ["red, I think"]
    assert one.corrections == {"changed": 2, "left_out": 0, "confirmed": 0}, "it is a file for more than one"


def test_a_folder_that_cannot_be_written(server: FakeModelServer, tmp_path: Path) -> None:
    file = invented_locomo.write(tmp_path / "locomo.json")
    (tmp_path / "taken").write_text("")
    with pytest.raises(DatasetError, match="taken cannot be written"):
        measure(file, config(server), tmp_path / "taken")
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    with pytest.raises(DatasetError, match="The answers are kept"):
        measure(file, config(server), tmp_path / "out")


def test_git_leaves_the_texts_alone(server: FakeModelServer, judge: FakeModelServer, tmp_path: Path) -> None:
    """Whatever Git would add has no word of the conversations."""
    out = tmp_path / "out"
    measure(invented_locomo.write(tmp_path / "locomo.json"), config(server), out, judge)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    listed = ["git", "-C", str(out), "ls-files", "--others", "--exclude-standard", "-z"]
    added = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]
    assert {"summary.json", "report.md", "run.json", "passes.jsonl", ".gitignore"} <= set(added)
    kept = {name: (out / name).read_bytes() for name in added if not name.endswith(".png")}
    assert not [name for name, content in kept.items() if b"cello" in content or b"Ana" in content]
    with_words = [file for file in out.rglob("*") if file.is_file() and b"cello" in file.read_bytes()]
    assert {file.relative_to(out).parts[0] for file in with_words} == set(locomo_run.WITH_TEXTS) - {
        "memories.jsonl",
        "judging.jsonl",
    }


def test_a_report_without_figures(server: FakeModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memlora_plugins.evaluation.plots.available", lambda: False)
    measure(invented_locomo.write(tmp_path / "locomo.json"), config(server), tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text().count("No figure: install matplotlib") == 1
    assert not list((tmp_path / "out").glob("*.png"))


CONFIG = """
embedder = "words"
wordnet = "wordnet"

[[student]]
name = "one"
base = "nano"
stages = true
teacher = "two"

[[student]]
name = "two"
base = "base"
base_url = "http://127.0.0.1:9"
adapters = { extraction = "adapter", update = "by-name" }

[judge]
base_url = "http://127.0.0.1:8"
model = "large"
"""


def test_a_config(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "nano").mkdir()
    file = tmp_path / "eval.toml"
    file.write_text(CONFIG)
    said = read_config(file, LocomoConfig)
    one, two = said.student
    assert one.is_nano, "whatever lies beside the file"
    assert one.teacher == two.name
    assert two.adapters == {"extraction": str(tmp_path / "adapter"), "update": "by-name"}
    assert (said.wordnet, said.embedder) == (tmp_path / "wordnet", "words")
    assert said.judge is not None
    assert said.judge.api_key_env == "MEMLORA_JUDGE_API_KEY"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (('name = "two"', 'name = "one"'), "the file: two students are called 'one'"),
        (('name = "two"', ""), r"student\[2\]\.name: Field required"),
        (("stages = true", "stages = 7"), r"student\[1\]\.stages: "),
        (("stages = true", ""), r"student\[1\]: a teacher stands in at single stages; add stages = true"),
        (('teacher = "two"', 'teacher = "three"'), "the teacher of 'one', 'three', is no other student of this file"),
        (('teacher = "two"', 'teacher = "one"'), "the teacher of 'one', 'one', is no other student"),
        (("wordnet =", "wordnets ="), "wordnets: Extra inputs"),
        (("update =", "vision ="), r"student\[2\]\.adapters: 'vision' is no stage"),
        (("[judge]", "[judge"), "is not TOML"),
    ],
)
def test_a_config_that_cannot_be(tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    file = tmp_path / "eval.toml"
    file.write_text(CONFIG.replace(*wrong))
    with pytest.raises(SettingsError, match=rf"eval\.toml.*{message}"):
        read_config(file, LocomoConfig)


def test_a_key_given_in_code_is_not_shown() -> None:
    model = {"base": "base", "base_url": "http://127.0.0.1:9"}
    for said in (
        {"student": [{"name": "one", **model, "api_key": "sk-secret"}]},
        {"student": [{"name": "one", **model}], "judge": {"api_key": "sk-secret"}},
    ):
        with pytest.raises(ValidationError) as error:
            LocomoConfig.model_validate(said)
        assert "secret" not in str(error.value)
