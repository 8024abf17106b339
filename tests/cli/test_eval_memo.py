"""`memlora eval memo`: bounds, baselines and MeMo over fake servers, and with a real small Memory model in process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hops
import hops_models
import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from reflections_by_heart import BY_HEART, HELD_OUT, PLACES, reflections
from scripted_memo import DONE, confirm, ground
from tiny_model import TinyModel

from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.memo.documents import Document, write_documents
from memlora_plugins.memo.training import MemoOptions, train_memory_model


class Bench:
    """Three questions of MuSiQue's form, an Executive, a Memory model on a server, and a judge: all fakes on loopback.

    `configure` writes the configuration: `top` are keys, `tables` follow them.
    """

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self.folder = folder
        self.config = folder / "memo.toml"
        self.out = folder / "out"
        self.executive = opened.enter_context(hops_models.executive())
        self.memory = opened.enter_context(hops_models.memory_server())
        self.judge = opened.enter_context(hops_models.judge())
        hops.write_rows(folder / "musique.jsonl")
        write_card(folder / "memory-model", MemoCard(documents=(TrainedDocument(id="d1"),)))

    def configure(self, top: str = "", *, tables: str | None = None, judged: bool = True) -> Path:
        judge = f'[judge]\nbase_url = "{self.judge.base_url}"\nmodel = "strict"\n'
        self.config.write_text(
            f'questions = "musique.jsonl"\n{top}\n'
            f'[executive]\nbase_url = "{self.executive.base_url}"\nmodel = "large"\n'
            f"{judge if judged else ''}{self.served() if tables is None else tables}"
        )
        return self.config

    def served(self, more: str = 'protocols = ["structured"]') -> str:
        address = f'base_url = "{self.memory.base_url}"'
        return f'[[memory]]\nname = "rivers"\nfolder = "memory-model"\n{address}\nnoise = 1\n{more}\n'

    @property
    def asked(self) -> tuple[int, int, int]:
        """How many requests the Executive, the Memory model and the judge had."""
        return len(self.executive.requests), len(self.memory.requests), len(self.judge.requests)

    def results(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.out / "results.json").read_text())
        return read

    def rows(self) -> dict[tuple[str, int | None], dict[str, Any]]:
        return {(row["method"], row["noise"]): row for row in self.results()["scores"]}

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(memlora: Memlora, tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as opened:
        yield Bench(tmp_path, opened)


MEMO = "MeMo rivers, structured"


def test_one_configuration_gives_one_table(memlora: Memlora, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("EXECUTIVE_", "JUDGE_", ""):
        monkeypatch.setenv(f"MEMLORA_{who}API_KEY", f"{who}key")
    done = memlora("eval", "memo", str(bench.configure()), "--out", "out")
    rows = bench.rows()
    assert list(rows) == [
        ("no context", None),
        ("perfect retrieval", None),
        *((name, noise) for noise in (0, 1, 2) for name in ("BM25", "dense")),
        (MEMO, 1),
    ]
    means = {row: found["accuracy"]["mean"] for row, found in rows.items()}
    assert means["no context", None] == 0.0
    assert means["perfect retrieval", None] == 1.0
    assert all(0.0 <= mean <= 1.0 for mean in means.values())
    assert means[MEMO, 1] == pytest.approx(2 / 3), "its Memory model does not know one of the towns"
    assert all((row["runs"], row["questions"], row["failed"]) == (3, 3, 0) for row in rows.values())
    assert {level["noise"]: level["negatives"] for level in bench.results()["levels"]} == {0: 0, 1: 4, 2: 10}
    kept_out = (bench.out / ".gitignore").read_text().split()
    assert kept_out[:3] == ["/answers.jsonl", "/answering.jsonl", "/judging.jsonl"]
    assert [name.partition("embeddings-")[0] for name in kept_out[3:]] == ["/.*.draft", "/", "/."], "and all vectors"
    texts = [file.name for file in bench.out.iterdir() if file.is_file() and b"Ada Quill" in file.read_bytes()]
    assert texts
    assert {f"/{name}" for name in texts} <= set(kept_out)
    report = (bench.out / "report.md").read_text()
    assert report.startswith("# MeMo and what it is compared with\n\n    memlora eval memo memo.toml --out out\n")
    assert "| MeMo rivers, structured | 1N | 0.667 ± 0.000 |" in report
    assert "Against noise (judged accuracy)" in report
    assert (bench.out / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "MeMo rivers, structured" in done.stdout
    assert "Judged accuracy: by strict." in done.stdout
    for server, key in ((bench.executive, "EXECUTIVE_"), (bench.judge, "JUDGE_"), (bench.memory, "")):
        assert server.headers["authorization"] == f"Bearer {key}key"
    written = "".join(file.read_text() for file in bench.out.glob("*.json*"))
    assert "_key" not in written
    assert str(bench.folder) not in written + report


def test_noise_is_what_the_readers_see(memlora: Memlora, bench: Bench) -> None:
    """At 0N there is evidence alone; nine documents are fewer than the corpus at 1N and 2N has."""
    bench.configure('runs = 1\nbaselines = ["dense"]\ntop_k = 9', tables="")
    memlora("eval", "memo", str(bench.config), "--out", "out")
    read = {(one["noise"], one["id"]): one["documents"] for one in bench.answers()}
    assert {noise: count for (noise, _), count in read.items()} == {0: 6, 1: 9, 2: 9}
    prompts = [body["messages"][0]["content"] for body in bench.executive.requests]
    assert sum("painter" in prompt for prompt in prompts) == 6, "at 1N and 2N"
    assert {body["temperature"] for body in bench.executive.requests} == {0.3}


def test_runs_differ_by_sampling_and_their_spread_is_told(memlora: Memlora, bench: Bench) -> None:
    said = iter(["Lessa", "wrong", "wrong", "wrong", "wrong", "Lessa", "Lessa", "Lessa"])
    bench.executive.reply("generation", lambda body: next(said))
    bench.configure('runs = 4\nlimit = 2\nconcurrency = 1\nbaselines = ["no context"]', tables="")
    memlora("eval", "memo", str(bench.config), "--out", "out")
    [row] = bench.rows().values()
    assert row["accuracy"]["runs"] == [0.5, 0.0, 0.0, 0.5]  # the second question's answer is Moir
    assert row["accuracy"]["sd"] == pytest.approx(0.288675)
    assert "0.250 ± 0.289" in (bench.out / "report.md").read_text()


def test_a_run_that_was_killed_asks_for_nothing_twice(memlora: Memlora, bench: Bench) -> None:
    words = ("eval", "memo", str(bench.configure("concurrency = 1")), "--out", "out")
    bench.executive.fail(*[None] * 10, *[Fault(status=503)] * 4)
    assert "error: The Executive 'large': " in memlora(*words, code=1).stderr
    assert not (bench.out / "report.md").exists()
    executive = bench.asked[0]
    told = json.loads(memlora(*words, "--json").stdout)
    readers, memo = 8 * 3 * 3, 3 * 3
    assert bench.asked[0] - executive == readers - 10 + 4 * memo, "ten answers were there"
    asked = bench.asked
    assert json.loads(memlora(*words, "--json").stdout) == told
    assert bench.asked == asked
    bench.configure('concurrency = 1\nruns = 4\nnoise = [0, 1]\nbaselines = ["BM25"]')
    memlora(*words)
    assert bench.asked[0] - asked[0] == 2 * 3 + 4 * 3, "the fourth run alone"
    bench.configure('concurrency = 1\nnoise = [0, 1]\nbaselines = ["BM25"]\ntop_k = 2', tables="")
    memlora(*words)
    assert bench.asked[0] - asked[0] == 18 + 2 * 3 * 3, "with other documents, every answer is another"


def test_without_a_judge_the_other_measures_stand(memlora: Memlora, bench: Bench) -> None:
    done = memlora("eval", "memo", str(bench.configure("runs = 1", judged=False)), "--out", "out")
    assert "Judged accuracy: not available: no judge is named; give the configuration a [judge]" in done.stdout
    assert bench.rows()[MEMO, 1]["accuracy"] is None
    assert bench.rows()[MEMO, 1]["scores"]["contains"]["mean"] == pytest.approx(2 / 3)
    assert "judged accuracy |" not in (bench.out / "report.md").read_text()


def test_a_judge_that_is_away_costs_the_accuracy_and_no_answer(
    memlora: Memlora, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("eval", "memo", str(bench.configure("runs = 1")), "--out", "out")
    bench.judge.fail(None, *[Fault(status=503)] * 400)
    done = memlora(*words)
    assert "not available: the judge 'strict' cannot be asked (BackendUnavailableError)" in " ".join(
        done.stdout.split()
    )
    assert "The judge 'strict': " in caplog.text
    assert all(row["accuracy"] is None for row in bench.rows().values()), "never a part of the mean"
    executive = bench.asked[0]
    bench.judge._faults.clear()
    memlora(*words)
    assert bench.rows()[MEMO, 1]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert bench.asked[0] == executive


def test_a_judge_that_never_gives_a_label(memlora: Memlora, bench: Bench) -> None:
    bench.judge.reply("judge", "hard to say")
    memlora("eval", "memo", str(bench.configure('runs = 1\nbaselines = ["no context"]', tables="")), "--out", "out")
    assert "none of 3 answers could be judged; the first: no label" in bench.results()["unjudged"]
    assert bench.rows()["no context", None]["unjudged"] == 3


def test_what_a_judge_says_of_a_prompt_is_not_published(memlora: Memlora, bench: Bench) -> None:
    words = ("eval", "memo", str(bench.configure('runs = 1\nbaselines = ["no context"]', tables="")), "--out", "out")
    bench.judge.fail(*[Fault(status=400, message="the prompt 'Where was Ada' is refused; key sk-abcdef")] * 3)
    done = memlora(*words)
    told = bench.results()["unjudged"]
    assert told == "none of 3 answers could be judged; the first: BackendRequestError, HTTP status 400"
    for text in (done.stdout, (bench.out / "report.md").read_text(), (bench.out / "results.json").read_text()):
        assert "sk-abcdef" not in text
        assert "Where was Ada" not in text


def test_failures_are_told_and_asked_for_again(memlora: Memlora, bench: Bench) -> None:
    words = (
        "eval",
        "memo",
        str(bench.configure('runs = 1\nbaselines = ["perfect retrieval"]', tables="")),
        "-o",
        "out",
    )
    bench.executive.fail(Fault(status=400))
    memlora(*words)
    row = bench.rows()["perfect retrieval", None]
    assert (row["failed"], row["accuracy"]["mean"]) == (1, pytest.approx(2 / 3))
    assert "1 times there was no answer, which counts as wrong" in (bench.out / "report.md").read_text()
    memlora(*words)
    assert bench.rows()["perfect retrieval", None]["accuracy"]["mean"] == 1.0


def test_a_memory_model_that_is_away(memlora: Memlora, bench: Bench) -> None:
    """What the Executive knows without it is not MeMo. The baselines' answers are kept."""
    words = ("eval", "memo", str(bench.configure("runs = 1")), "--out", "out")
    bench.memory.stop()
    assert "error: The Memory model 'rivers': No model server answers at " in memlora(*words, code=1).stderr
    readers = len(bench.executive.asked("generation"))
    with hops_models.memory_server() as again:
        bench.memory = again
        bench.configure("runs = 1")
        memlora(*words)
    assert len(bench.executive.asked("generation")) == readers
    assert bench.rows()[MEMO, 1]["accuracy"]["mean"] == pytest.approx(2 / 3)


def test_every_protocol_of_every_memory_model_with_every_executive(memlora: Memlora, bench: Bench) -> None:
    tables = bench.served("epoch = 1\nfamily = 'Rivers'\nsize = '1B'") + bench.served("epoch = 2")
    bench.configure('runs = 1\nlimit = 1\nbaselines = ["no context"]\nnoise = [1]', tables=tables)
    text = bench.config.read_text().replace("[executive]", "[[executive]]")
    extra = f'[[executive]]\nname = "second"\nruns = 2\nbase_url = "{bench.executive.base_url}"\nmodel = "large"\n'
    bench.config.write_text(text.replace("[judge]", f"{extra}[judge]"))
    memlora("eval", "memo", str(bench.config), "--out", "out")
    scores = bench.results()["scores"]
    assert [(row["executive"], row["method"], row["runs"]) for row in scores[:2]] == [
        ("large", "no context", 1),
        ("second", "no context", 2),
    ]
    found = {(row["executive"], row["epoch"], row["method"].rpartition(", ")[2]) for row in scores[2:]}
    assert found == {
        (executive, epoch, protocol)
        for executive in ("large", "second")
        for epoch in (1.0, 2.0)
        for protocol in ("structured", "single-turn", "unstructured")
    }
    report = (bench.out / "report.md").read_text()
    assert "| rivers | 1B | Rivers | 1 | 1N | 1 |" in report
    assert "| Executive | method | noise | epoch |" in report


def test_one_memory_model_with_budgets_of_its_own_beside_itself(memlora: Memlora, bench: Bench) -> None:
    """With no budget for what it asks in the second stage, the Executive never learns of a river."""
    short = bench.served().replace('"rivers"', '"rivers, short"')
    tables = (
        f"{bench.served()}{short}[memory.budgets]\ngrounding = 0\nentity = 0\n[memory.temperatures]\nanswer = 0.0\n"
    )
    words = ("eval", "memo", str(bench.configure("runs = 1\nbaselines = []", tables=tables)), "--out", "out")
    done = memlora(*words)
    means = {method: row["accuracy"]["mean"] for (method, _), row in bench.rows().items()}
    assert means == {MEMO: pytest.approx(2 / 3), "MeMo rivers, short, structured": 0.0}
    whole, own = bench.results()["memory"]
    assert (whole["budgets"]["grounding"], own["budgets"]["grounding"], own["budgets"]["answer"]) == (1, 0, 8)
    report = (bench.out / "report.md").read_text()
    assert "| name | size | family | epoch | trained at | documents | budgets | temperatures |" in report
    assert "| rivers |  |  |  | 1N | 1 | the paper's | the paper's |" in report
    assert "| rivers, short |  |  |  | 1N | 1 | grounding 0, entity 0 | answer 0 |" in report
    assert "MeMo's are told with the Memory models" in done.stdout
    asked = bench.asked
    bench.config.write_text(bench.config.read_text().replace("grounding = 0", "grounding = 2"))
    memlora(*words)
    assert bench.asked[0] > asked[0], "of other budgets come other answers"


def test_a_memory_model_by_its_name_on_a_server_alone(memlora: Memlora, bench: Bench) -> None:
    tables = f'[[memory]]\nname = "rivers"\nbase_url = "{bench.memory.base_url}"\nmodel = "memory"\n'
    bench.configure("runs = 1\nbaselines = []", tables=tables)
    memlora("eval", "memo", str(bench.config), "--out", "out")
    rows = bench.rows()
    assert rows[MEMO, None]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert rows["MeMo rivers, single-turn", None]["accuracy"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("questions", "question"), "memo.toml: questions: Field required"),
        (lambda text: text.replace("musique.jsonl", "gone.jsonl"), "gone.jsonl cannot be read"),
        (lambda text: text.replace('"memory-model"', '"gone"'), "The Memory model 'rivers': "),
        (lambda text: text.replace("http://127", "ftp://127", 1), "The Executive 'large': "),
        (lambda text: text.replace("http://127", "ftp://127", 1), "must be an http"),
        (lambda text: "[" + text, "memo.toml is not TOML"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(
    memlora: Memlora, bench: Bench, change: Callable[[str], str], message: str
) -> None:
    bench.configure()
    bench.config.write_text(change(bench.config.read_text()))
    assert message in memlora("eval", "memo", str(bench.config), "--out", "out", code=1).stderr
    assert bench.asked == (0, 0, 0)


def test_a_folder_that_cannot_be_written(memlora: Memlora, bench: Bench) -> None:
    assert (
        "cannot be written"
        in memlora("eval", "memo", str(bench.configure()), "--out", str(bench.config / "x"), code=1).stderr
    )


# Any questions, and a real Memory model ------------------------------------------------------------------------------


def passes_on(body: dict[str, Any]) -> str:
    """An Executive that asks the Memory model the question itself and repeats what it says; a reader that looks for
    "THING is in PLACE" in the documents.
    """
    prompt = body["messages"][-1]["content"]
    question = prompt.rpartition("Question: ")[2].splitlines()[0]
    if "response_format" not in body:
        thing = next(thing for thing in PLACES if thing in question)
        found = re.search(rf"{thing} is in ([\w ]+)\.", prompt)
        return found[1] if found else "I don't know"
    keys = set(body["response_format"]["json_schema"]["schema"]["properties"])
    if keys == {"sub_questions"}:
        return json.dumps(ground(question))
    if "confirmed_entity" in keys:
        return json.dumps(confirm("it"))
    if "decision" in keys:
        return json.dumps(DONE)
    said = re.findall(r"-> (.+)", prompt) or re.findall(r": (.+)", prompt.rpartition(question)[2])
    return json.dumps({"final_answer": said[-1] if said else "unknown", "justification": ""})


@pytest.fixture(scope="module")
def by_heart(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Memory model, small, of four documents."""
    folder = tmp_path_factory.mktemp("by-heart") / "model"
    train_memory_model(tiny_model.path, reflections(), folder, MemoOptions(**BY_HEART))
    return folder


def test_any_questions_and_a_memory_model_in_process(memlora: Memlora, by_heart: Path, tmp_path: Path) -> None:
    documents = [Document(f"{thing}.txt", f"{thing} is in {place}.") for thing, place in PLACES.items()]
    write_documents(tmp_path / "documents.jsonl", documents)
    write_documents(tmp_path / "others.jsonl", [Document(f"{n}", f"Nothing is in drawer {n}.") for n in range(8)])
    rows = [
        {"question": HELD_OUT.format(thing), "answer": place, "evidence": [f"{thing}.txt"], "kind": thing[0]}
        for thing, place in PLACES.items()
    ]
    del rows[0]["evidence"]
    (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with FakeModelServer(model="large") as executive:
        executive.reply("generation", passes_on)
        executive.reply("executive", passes_on)
        (tmp_path / "memo.toml").write_text(
            f"""
            questions = "questions.jsonl"
            corpus = "documents.jsonl"
            negatives = "others.jsonl"
            runs = 2
            top_k = 3
            [executive]
            base_url = "{executive.base_url}"
            model = "large"
            [temperatures]
            memory_grounding = 0.0
            [[memory]]
            name = "tiny"
            folder = "{by_heart}"
            device = "cpu"
            """
        )
        told = json.loads(memlora("eval", "memo", "memo.toml", "--out", "out", "--json").stdout)
    scores = {(row["method"], row["noise"]): row for row in told["scores"]}
    assert scores["no context", None]["scores"]["contains"]["mean"] == 0.0
    perfect = scores["perfect retrieval", None]
    assert (perfect["questions"], perfect["scores"]["contains"]["mean"], perfect["documents"]) == (3, 1.0, 1.0)
    assert "over the 3 of 4 questions that name their documents" in told["notes"][0]
    for protocol in ("structured", "single-turn", "unstructured"):
        found = scores[f"MeMo tiny, {protocol}", None]
        assert found["failed"] == found["unanswered"] == 0
    assert scores["MeMo tiny, structured", None]["scores"]["contains"]["mean"] >= 0.5
    [tiny] = told["memory"]
    assert (tiny["documents"], tiny["parameters"]) == (4, pytest.approx(tiny["parameters"]))
    assert tiny["parameters"] > 0
    assert [level["negatives"] for level in told["levels"]] == [0, 3, 6]


def test_a_question_file_without_evidence_has_no_perfect_retrieval(
    memlora: Memlora, bench: Bench, tmp_path: Path
) -> None:
    write_documents(tmp_path / "documents.jsonl", [Document("d", "The river Lessa runs through Brimmel.")])
    (tmp_path / "questions.jsonl").write_text('{"question": "Where was Ada Quill born?", "answer": "Brimmel"}\n')
    bench.configure('corpus = "documents.jsonl"\nruns = 1\ntemperature = 0', tables="", judged=False)
    bench.config.write_text(bench.config.read_text().replace("musique.jsonl", "questions.jsonl"))
    memlora("eval", "memo", str(bench.config), "--out", "out")
    assert list(bench.rows()) == [("no context", None), ("BM25", 0), ("dense", 0)]
    assert "Perfect retrieval: not available: no question names its documents." in bench.results()["notes"]
