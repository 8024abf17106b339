"""`memlora eval locomo`: a student, and several of a config, over fake servers of model and judge."""

from __future__ import annotations

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import invented_locomo
import pytest
from commands import Memlora, run_memlora
from fake_server import FakeModelServer
from scripted import WordEmbedder
from tiny_model import TinyModel

from memlora_plugins import nano
from memlora_plugins.embedding import SentenceTransformerEmbedder
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.serving.local import LocalBackend

WORDNET = os.environ.get("MEMLORA_WORDNET")
"""Before a test takes it away."""


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
    monkeypatch.setenv("MEMLORA_JUDGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MEMLORA_JUDGE_MODEL", "of-the-environment")
    adapters = ", ".join(f'{stage} = "{stage}"' for stage in server.adapters)
    config = tmp_path / "eval.toml"
    with FakeModelServer(model="large") as judge:
        config.write_text(f"""
            [[student]]
            name = "small"
            base = "{server.model}"
            base_url = "{server.base_url}"
            stages = true
            teacher = "teacher"
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
        config.write_text(config.read_text().partition("[judge]")[0])
        monkeypatch.setenv("MEMLORA_JUDGE_URL", judge.base_url)
        judge.adapters["of-the-environment"] = "/e"
        filled = json.loads(memlora(*said, "--json").stdout)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["small:", "+", "generation", "1.000", "n/a", *["1.000"] * 3] in [line[:8] for line in lines]
    assert ["small:", "teacher", "at", "extraction", "and", "update", "1.000"] in [line[:7] for line in lines]
    assert ["teacher,", "base", "1.000", "n/a", "0.250"] in [line[:5] for line in lines]
    assert "judged by large" in done.stdout
    assert (other["judge"], other["changes_by"]) == ("other", "J")
    assert (filled["judge"], filled["changes_by"]) == ("of-the-environment", "J")


class AddressedWordEmbedder(WordEmbedder):
    """Takes the arguments of `OpenAIEmbedder`."""

    def __init__(self, base_url: str, model: str, *, api_key: object = None) -> None:
        super().__init__()
        self.name = f"{model} at {base_url}"


@pytest.mark.parametrize(
    ("said", "environment", "given", "used"),
    [
        ({}, {"": "environs"}, [], "fake-words-for-environs"),
        ({}, {"": "environs", "_URL": "http://there"}, [], "environs at http://there"),
        ({"": "files"}, {"": "environs", "_URL": "http://there"}, [], "fake-words-for-files"),
        ({"": "files", "_url": "http://file"}, {"": "environs", "_URL": "http://there"}, [], "files at http://file"),
        ({"_url": "http://file"}, {"": "environs", "_URL": "http://there"}, [], "environs at http://file"),
        ({"": "files", "_url": "http://file"}, {}, ["--embedder", "mine"], "fake-words-for-mine"),
        ({"": "files"}, {}, ["--embedder", "mine", "--embedder-url", "http://mine"], "mine at http://mine"),
    ],
)
def test_the_file_names_the_embedder_before_the_environment_and_after_the_command_line(
    memlora: Memlora,
    server: FakeModelServer,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, str],
    environment: dict[str, str],
    given: list[str],
    used: str,
) -> None:
    monkeypatch.setattr("memlora_plugins.embedding.OpenAIEmbedder", AddressedWordEmbedder)
    for name, value in environment.items():
        monkeypatch.setenv(f"MEMLORA_EMBEDDER{name}", value)
    invented_locomo.write(file, [invented_locomo.talk("conv-a", "Ana", "Ben", sessions=1)])
    lines = [f'embedder{name} = "{value}"' for name, value in said.items()]
    student = f'name = "small"\nbase = "{server.model}"\nbase_url = "{server.base_url}"'
    (tmp_path / "eval.toml").write_text("\n".join([*lines, "[[student]]", student]))
    done = memlora("eval", "locomo", str(file), "-o", "out", "--config", "eval.toml", "--json", *given)
    assert json.loads(done.stdout)["embedder"] == used


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
        (["--judge-url", "http://u:SECRET@127.0.0.1:9", "--judge-model", "x"], 1, "api_key_env names the variable"),
        (["--corrected", "none.json"], 1, "none.json cannot be read"),
    ],
)
def test_wrong_usage(memlora: Memlora, words: list[str], more: list[str], code: int, message: str) -> None:
    told = " ".join(memlora(*words, *more, code=code).stderr.replace("│", "").split())
    assert message in told
    assert "SECRET" not in told


@pytest.mark.parametrize(
    ("more", "options"),
    [
        (["--stages"], "--stages"),
        (["--api", "vllm", "--base-url", "http://127.0.0.1:9"], "--base-url, --api"),
        (["--adapter", "update=x", "--shared", "y"], "--adapter, --shared"),
    ],
)
def test_what_a_config_would_not_hear_is_refused(memlora: Memlora, file: Path, more: list[str], options: str) -> None:
    done = memlora("eval", "locomo", str(file), "-o", "out", "--config", "eval.toml", *more, code=2)
    told = " ".join(done.stderr.replace("│", "").split())
    assert f"{options}: with --config, say that of a [[student]] in the file instead" in told
    assert not Path("out").exists()


def test_neither_student_nor_config(memlora: Memlora, file: Path) -> None:
    assert "name a student with --base" in memlora("eval", "locomo", str(file), "--out", "out", code=2).stderr


def test_a_server_that_is_down(memlora: Memlora, words: list[str], server: FakeModelServer) -> None:
    server.stop()
    assert "error: No model server answers" in memlora(*words, code=1).stderr


# Nothing but real parts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealRun:
    """Runs with nano in process, MiniLM, ROUGE-1 and, where WordNet is, METEOR: how often each asked a model, and what
    the last one printed and left."""

    asked: tuple[int, ...]
    printed: str
    out: Path

    @property
    def answered(self) -> dict[str, list[dict[str, Any]]]:
        """Row to its answers to the questions that have one."""
        found: dict[str, list[dict[str, Any]]] = {}
        for line in (self.out / "answers.jsonl").read_text().splitlines():
            one = json.loads(line)
            if one["category"] != 5:
                found.setdefault(one["row"], []).append(one)
        return found

    def table(self, title: str) -> dict[str, dict[str, str]]:
        """A printed table: row to column to cell."""
        head, _, *rows = self.printed.partition(f"{title} ")[2].partition("\n\n")[0].splitlines()[1:]
        places = [found.span() for found in re.finditer(r"\S+(?: \S+)*\s*", head)]
        lines = [[line[start:end].strip() for start, end in places] for line in (head, *rows)]
        return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRun]:
    """A run, and another one on the same folder, with the last word of what the experts said as the right answer."""
    if not nano.shipped():
        pytest.skip("needs nano's weights")
    folder = tmp_path_factory.mktemp("real")
    file = invented_locomo.write(folder / "locomo.json", [invented_locomo.talk("conv-a", "Ana", "Ben", sessions=2)])
    words = ["eval", "locomo", str(file), "--out", str(folder / "out"), "--base", "nano"]
    words += ["--wordnet", WORDNET] if WORDNET else []
    asked, complete = [0], LocalBackend.acomplete

    async def counted(self: LocalBackend, request: Request) -> Completion:
        asked[-1] += 1
        return await complete(self, request)

    with pytest.MonkeyPatch.context() as alone:
        for name in [name for name in os.environ if name.startswith("MEMLORA_")]:
            alone.delenv(name)
        alone.setenv("COLUMNS", "250")
        alone.setenv("NO_COLOR", "1")
        alone.setattr(LocalBackend, "acomplete", counted)
        run_memlora(*words)
        asked.append(0)
        first = RealRun((), "", folder / "out").answered["experts"]
        better = [{key: one[key] for key in ("conversation", "question")} for one in first]
        better = [one | {"answer": said["answer"].split()[-1]} for one, said in zip(better, first, strict=True)]
        (folder / "better.jsonl").write_text("".join(json.dumps(one) + "\n" for one in better))
        done = run_memlora(*words, "--corrected", str(folder / "better.jsonl"))
        yield RealRun(tuple(asked), done.stdout, folder / "out")


def mean(values: Iterable[float]) -> str:
    return f"{statistics.fmean(values):.3f}"


def f1(said: list[str], right: list[str]) -> float:
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right))


def test_what_is_printed_is_what_the_answers_are_worth(real_run: RealRun) -> None:
    scores, parts = real_run.table("Scores, categories 1 to 4"), real_run.table("The parts of L")
    assert list(real_run.answered) == list(scores) == list(parts) == ["base", "experts"]
    with closing(SentenceTransformerEmbedder("all-MiniLM-L6-v2")) as minilm:
        for row, answers in real_run.answered.items():
            texts = [(one["answer"], one["expected"]) for one in answers]
            tokens = [tuple(re.findall(r"[a-z0-9]+", text.lower()) for text in pair) for pair in texts]
            squad = [([word for word in said if word not in ("a", "an", "the")], right) for said, right in tokens]
            assert scores[row]["token F1"] == mean(f1(said, right) for said, right in squad)
            assert scores[row]["exact match"] == mean(said == right for said, right in squad)
            assert scores[row]["contains"] == mean(right[0] in said for said, right in squad)
            assert parts[row]["ROUGE-1"] == mean(f1(said, right) for said, right in tokens)
            near = [minilm.embed(pair) for pair in texts]
            assert parts[row]["Sentence-BERT"] == mean(max(0.0, float(said @ right)) for said, right in near)
            assert (scores[row]["J"], scores[row]["L"], scores[row]["questions"]) == ("n/a", "n/a", str(len(answers)))
    assert (scores["experts"]["contains"], float(parts["experts"]["ROUGE-1"]) > 0) == ("1.000", True)
    gained = float(scores["experts"]["token F1"]) - float(scores["base"]["token F1"])
    assert float(scores["experts"]["change, token F1"].split()[0]) == pytest.approx(gained, abs=0.0011)
    assert "J: not available: no judge is named" in real_run.printed


def test_meteor_is_printed_where_wordnet_is(real_run: RealRun) -> None:
    """Of one expected word among `n`: precision 1/n and recall 1, recall weighing nine times, and one chunk of one."""
    parts = real_run.table("The parts of L")
    if "METEOR: not available" in real_run.printed:
        assert {parts[row]["METEOR"] for row in parts} == {"n/a"}
        pytest.skip("WordNet is not on this machine; MEMLORA_WORDNET names its folder")
    for row, answers in real_run.answered.items():
        words = [(one["answer"].lower().split(), one["expected"].lower()) for one in answers]
        harmonic = [10 / len(said) / (1 + 9 / len(said)) if right in said else 0.0 for said, right in words]
        assert parts[row]["METEOR"] == mean(0.5 * one for one in harmonic)
    assert float(parts["experts"]["METEOR"]) > 0


def test_a_finished_run_asks_no_model_again(real_run: RealRun) -> None:
    first, again = real_run.asked
    assert first > 0
    assert again == 0
