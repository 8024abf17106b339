"""`memlora eval vqa make` and `run`, with fake vision models that look at the images they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Memlora
from fake_server import FakeModelServer, Fault
from fake_vision import draw, fake_maker, fake_student, sees

from memlora_plugins.evaluation.vqa import TYPES
from memlora_plugins.experts import vision


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, names in {
        "train": ("red", "green", "blue"),
        "validation": ("yellow",),
        "test": ("black", "red"),
    }.items():
        for name in names:
            draw(tmp_path / "photos" / split / f"{name}.png", name)
    return tmp_path / "photos"


@pytest.fixture
def maker() -> Iterator[FakeModelServer]:
    with fake_maker() as server:
        yield server


@pytest.fixture
def student() -> Iterator[FakeModelServer]:
    with fake_student(sees(wrong=("mood", "count", "style", "presence"))) as server:
        yield server


def at(server: FakeModelServer, who: str = "") -> list[str]:
    """The options that name a model."""
    return [
        f"--{who}-url" if who else "--base-url",
        server.base_url,
        f"--{who}-model" if who else "--model",
        server.model,
    ]


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_from_a_folder_of_images_to_v(
    memlora: Memlora,
    photos: Path,
    maker: FakeModelServer,
    student: FakeModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMLORA_API_KEY", "large-key")
    monkeypatch.setenv("MEMLORA_VALIDATOR_API_KEY", "small-key")
    (tmp_path / "captions.jsonl").write_text('{"image": "train/blue.png", "caption": "All of it is blue."}\n')
    words = ["eval", "vqa", "make", str(photos), "-o", "out", "--split-by-folder", "--captions", "captions.jsonl"]
    done = memlora(*words, *at(maker), *at(student, "validator"))
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["count", "1.000", "1", "0", "0", "0", "yes"] in lines
    assert ["details", "0.000", "1", "1", "0", "0"] in lines
    assert ["color", "4", "4", "0"] not in lines, "the validator is good at colours"
    assert ["mood", "4", "4", "0"] in lines
    assert "12 questions about 4 images: out/dataset.jsonl" in done.stdout
    assert f"memlora eval vqa run out/dataset.jsonl --images {photos} --out FOLDER" in done.stdout
    assert "note: 2 file(s) were left out, the first: test/red.png, in several splits." in done.stderr
    assert maker.headers["authorization"] == "Bearer large-key"
    assert student.headers["authorization"] == "Bearer small-key"
    assert {row["type"] for row in rows(tmp_path / "out" / "dataset.jsonl")} == {"count", "mood", "style"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "`memlora eval vqa make photos --out out --split-by-folder" in report
    assert "-key" not in report

    asked = (len(maker.requests), len(student.requests))
    told = json.loads(memlora(*words, *at(maker), *at(student, "validator"), "--json").stdout)
    assert (told["file"], told["types"]) == ("out/dataset.jsonl", ["count", "mood", "style"])
    assert (len(maker.requests), len(student.requests)) == asked, "nothing is asked twice"
    assert told["resumed"] == sum(asked)

    run = ["eval", "vqa", "run", "out/dataset.jsonl", "--images", str(photos), "-o", "answers", *at(student)]
    student.reply("generation", '{"answer":"blue","reason":"The caption says so."}')
    done = memlora(*run, "--api", "openai")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["vision", "0.000", "[0.000,", "0.000]"] in [line[:4] for line in lines]
    assert ["caption", "1.000", "[1.000,", "1.000]"] in [line[:4] for line in lines]
    assert "note: caption was asked 3 of 12 questions" in done.stderr
    assert "Every answer: answers/answers.jsonl" in done.stdout
    assert len(rows(tmp_path / "answers" / "answers.jsonl")) == 15
    test = json.loads(memlora(*run, "--api", "openai", "--split", "test", "-o", "test", "--json").stdout)
    assert [(one["method"], one["questions"]) for one in test["methods"]] == [("vision", 3)]


def test_types_may_be_named(memlora: Memlora, photos: Path, maker: FakeModelServer, student: FakeModelServer) -> None:
    words = ["eval", "vqa", "make", str(photos), *at(maker), "--type", "mood", "--type", "color", "--json"]
    told = json.loads(memlora(*words, "-o", "out").stdout)
    assert (told["types"], told["chosen_by"], told["images"], told["splits"]) == (["mood", "color"], "named", 5, {})
    checked = [*words, *at(student, "validator")]
    told = json.loads(memlora(*checked, "-o", "hard", "--hard-only").stdout)
    assert {type: made["kept"] for type, made in told["made"].items()} == {"mood": 5, "color": 0}
    done = memlora(*[word for word in checked if word != "--json"], "-o", "out")
    assert "note: The validator was not asked" in done.stderr


def test_every_type_of_the_command_exists(memlora: Memlora, photos: Path, maker: FakeModelServer) -> None:
    named = [word for type in TYPES for word in ("--type", type)]
    told = json.loads(memlora("eval", "vqa", "make", str(photos), "-o", "o", *at(maker), *named, "--json").stdout)
    assert told["types"] == list(TYPES)


def test_an_expert_on_vllm_beside_its_base(memlora: Memlora, photos: Path, maker: FakeModelServer) -> None:
    memlora("eval", "vqa", "make", str(photos), "-o", "out", *at(maker), "--type", "color")
    with FakeModelServer(model="base", adapters={"vision": "/v"}) as server:
        server.reply("vision", sees())
        server.reply("generation", "no idea")
        words = ["eval", "vqa", "run", "out/dataset.jsonl", "--images", str(photos), "-o", "answers", *at(server)]
        done = memlora(*words, "--adapter", "vision=vision", "--method", "base", "--method", "vision")
        assert ["vision", "1.000"] in [line.split()[:2] for line in done.stdout.splitlines()]
        assert ["base", "0.000"] in [line.split()[:2] for line in done.stdout.splitlines()]
        assert "note: base: 5 unreadable replies and 0 failed calls count as wrong." in done.stderr
        prompts = {body["model"]: body["messages"][0]["content"][1]["text"] for body in server.requests}
        assert vision.SHORT_PROMPT in prompts["vision"]


def test_images_beside_the_dataset_need_no_folder(
    memlora: Memlora, photos: Path, maker: FakeModelServer, student: FakeModelServer
) -> None:
    memlora("eval", "vqa", "make", str(photos), "-o", "out", *at(maker), "--type", "color")
    words = [*at(student), "--api", "openai", "-o", "answers", "--json", "--structured-output", "json_object"]
    (photos / "dataset.jsonl").write_text(Path("out/dataset.jsonl").read_text())
    student.reply("generation", sees())
    told = json.loads(memlora("eval", "vqa", "run", str(photos / "dataset.jsonl"), *words).stdout)
    assert told["methods"][0]["v"]["mean"] == 1.0
    assert student.requests[-1]["response_format"] == {"type": "json_object"}
    assert "are not in out" in memlora("eval", "vqa", "run", "out/dataset.jsonl", *words, code=1).stderr


def test_nothing_usable_is_a_failure(memlora: Memlora, photos: Path) -> None:
    with fake_maker("What a nice picture.") as maker:
        done = memlora("eval", "vqa", "make", str(photos), "-o", "out", *at(maker), code=1)
    assert "note: No question came of it." in done.stderr
    assert "0 questions about 5 images" in done.stdout


def test_a_validator_out_of_reach_is_named(memlora: Memlora, photos: Path, maker: FakeModelServer) -> None:
    gone = ["--validator-url", "http://127.0.0.1:9", "--validator-model", "small", "--structured-output", "none"]
    words = ["eval", "vqa", "make", str(photos), "-o", "out", *at(maker), *gone, "--concurrency", "64"]
    told = memlora(*words, code=1).stderr
    assert "The validator 'small': No model server answers at http://127.0.0.1:9" in told


def test_the_validator_is_asked_for_json_as_the_maker_is(
    memlora: Memlora, photos: Path, maker: FakeModelServer, student: FakeModelServer
) -> None:
    words = ["eval", "vqa", "make", str(photos), "-o", "out", *at(maker), *at(student, "validator")]
    memlora(*words, "--probe-images", "1", "--structured-output", "json_object")
    assert student.requests[-1]["response_format"] == {"type": "json_object"}


def test_an_interrupted_run_resumes(memlora: Memlora, photos: Path, maker: FakeModelServer) -> None:
    words = ["eval", "vqa", "make", str(photos), "-o", "out", *at(maker), "--concurrency", "1", "--type", "color"]
    maker.fail(None, None, Fault(status=401))
    assert "2 finished calls are kept" in memlora(*words, code=1).stderr
    assert json.loads(memlora(*words, "--json").stdout)["resumed"] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 1, "No maker is named"),
        (["--base-url", "http://127.0.0.1:9", "--model", "m", "--hard-only"], 1, "a validator is needed"),
        (["--validator-model", "m"], 2, "--validator-url and --validator-model belong together"),
        (["--type", "smell"], 2, "smell"),
        (["--probe-images", "0"], 2, "--probe-images"),
        (["--captions", "none.jsonl"], 1, "none.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_made_is_said(memlora: Memlora, photos: Path, words: list[str], code: int, message: str) -> None:
    assert message in memlora("eval", "vqa", "make", str(photos), "-o", "out", *words, code=code).stderr


def test_a_folder_without_images_is_said(memlora: Memlora, tmp_path: Path, maker: FakeModelServer) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_text("not an image")
    done = memlora("eval", "vqa", "make", "none", "-o", "out", *at(maker), code=1)
    assert "holds no image that can be used" in done.stderr
    assert not maker.requests


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 1, "No student is named"),
        (["--model", "folder"], 1, "reads text only"),
        (["--split", "exam"], 2, "no question of split 'exam'; there is no split"),
        (["--method", "caption", "--base-url", "http://127.0.0.1:9", "--model", "m"], 1, "has no captions"),
        (
            ["--api", "openai", "--base-url", "http://127.0.0.1:9", "--model", "m", "--adapter", "vision=v"],
            1,
            "knows no adapters",
        ),
    ],
)
def test_what_cannot_be_run_is_said(
    memlora: Memlora, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    row = {"image": "a.png", "sha256": "0", "type": "color", "question": "Which?", "answer": "red"}
    (tmp_path / "dataset.jsonl").write_text(json.dumps(row))
    assert message in memlora("eval", "vqa", "run", "dataset.jsonl", "-o", "out", *words, code=code).stderr
