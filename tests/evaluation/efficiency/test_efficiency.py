"""Efficiency of a student: sizes against files made by hand and against torch, figures against a clock that is set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeModelServer
from scripted import FakeBackend, WordEmbedder, decides, says, user_line
from tiny_model import TinyModel

from memlora_plugins import AdapterInvalidError, Message, nano
from memlora_plugins.errors import BackendUnavailableError, DatasetError, InvalidInputError, SettingsError
from memlora_plugins.evaluation.conversations import Conversation, Question
from memlora_plugins.evaluation.efficiency import costs as efficiency
from memlora_plugins.evaluation.efficiency import students
from memlora_plugins.evaluation.efficiency.costs import Row, Spread, Student, Subject, Work
from memlora_plugins.evaluation.efficiency.report import Efficiency, figures, markdown, tables
from memlora_plugins.evaluation.efficiency.weights import Weights, adapter_weights, model_weights
from memlora_plugins.evaluation.harness import machine
from memlora_plugins.evaluation.harness.candidates import Candidate
from memlora_plugins.evaluation.harness.usage import ExpertUsage
from memlora_plugins.serving.base import Completion, Request
from memlora_plugins.settings import Settings
from memlora_plugins.training.journal import Journal
from memlora_plugins.types import Usage

needs_nano = pytest.mark.skipif(not nano.shipped(), reason="nano's weights are not in the package yet: make nano")

# Sizes ---------------------------------------------------------------------------------------------------------------


def write_tensors(file: Path, tensors: Mapping[str, tuple[str, Sequence[int], int]]) -> None:
    """A safetensors file by the format's own rules: length of the header, header, bytes. Each: dtype, shape, bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def test_the_size_of_a_model_in_one_file_and_in_several(tmp_path: Path) -> None:
    parts = {"a": ("BF16", (3, 5), 30), "b": ("F32", (7,), 28), "scale": ("F32", (), 4), "q": ("F8_E4M3", (10, 2), 20)}
    write_tensors(tmp_path / "model.safetensors", parts)
    whole = model_weights(tmp_path)
    assert whole == Weights(parameters=15 + 7 + 1 + 20, bytes=82, stored_as=("BF16", "F32", "F8_E4M3"))
    shards = tmp_path / "shards"
    shards.mkdir()
    places = {name: f"model-{number}.safetensors" for number, name in enumerate(parts)}
    for name, place in places.items():
        write_tensors(shards / place, {name: parts[name]})
    write_tensors(shards / "of-another-kind.safetensors", parts)  # the index does not name it
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert model_weights(shards) == whole
    write_tensors(tmp_path / "adapter_model.safetensors", {"x.lora_A.weight": ("F16", (8, 4), 64)})
    adapter = adapter_weights(tmp_path)
    assert adapter == Weights(parameters=32, bytes=64, stored_as=("F16",))
    assert whole + adapter == Weights(parameters=75, bytes=146, stored_as=("BF16", "F16", "F32", "F8_E4M3"))
    assert Weights(parameters=1_543_714_304, bytes=2 * 1_543_714_304, stored_as=()).gb == pytest.approx(2.88, abs=0.005)


def test_files_that_cannot_be_counted(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no model folder"):
        model_weights(tmp_path / "none")
    with pytest.raises(SettingsError, match="not a readable safetensors file"):
        model_weights(tmp_path)
    for content in (b"\x05", (4).to_bytes(8, "little") + b"[1]x", (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(SettingsError, match=r"adapter_model\.safetensors is not a readable"):
            adapter_weights(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes((14).to_bytes(8, "little") + b'{"a":{"no":1}}')
    with pytest.raises(SettingsError, match="not a readable"):
        adapter_weights(tmp_path)


@needs_nano
def test_the_size_of_nano_is_what_torch_loads_and_the_disk_holds() -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(nano.BASE, local_files_only=True)
    found = model_weights(nano.BASE)
    assert found.parameters == sum(one.numel() for one in base.parameters())
    with (nano.BASE / "model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert found.bytes == (nano.BASE / "model.safetensors").stat().st_size - header == 2 * found.parameters
    model: Any = PeftModel.from_pretrained(base, nano.ADAPTERS["update"])
    lora = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
    assert adapter_weights(nano.ADAPTERS["update"]).parameters == lora


# Figures -------------------------------------------------------------------------------------------------------------


class Clock:
    """Stands still but for the calls."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


SPENT = {"extraction": (100, 20, 2.0), "update": (60, 40, 5.0), "generation": (30, 6, 1.0)}
"""Input tokens, output tokens and seconds of each call."""


FACTS = {
    "I own a boat.": "the boat is owned",
    "My boat is old.": "the boat is old",
    "The boat leaks.": "the boat leaks",
}


class Timed(FakeBackend):
    """Every call takes the seconds of its expert, times `slow`; the first piece of a stream a quarter of that."""

    def __init__(self, clock: Clock, slow: float = 1.0) -> None:
        super().__init__(extraction=self._notes, update=lambda _: decides(("0", "NONE", "x")), generation=self._says)
        self.clock, self.slow = clock, slow

    def _notes(self, request: Request) -> str:
        told = (line for line in FACTS if line in user_line(request))
        return says(*(FACTS[line] for line in told))

    def _says(self, request: Request) -> str:
        return "a boat"

    def _reply(self, request: Request) -> Completion:
        done = super()._reply(request)
        read, written, seconds = SPENT[request.expert]
        self.clock.now += seconds * self.slow
        return Completion(done.text, usage=Usage(1, read, written), model="fake")

    async def astream(self, request: Request) -> Any:
        self.clock.now += SPENT[request.expert][2] * self.slow / 4
        yield "piece"
        yield self._reply(request)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.perf_counter", made)
    return made


def talk(id: str = "ana") -> Conversation:
    said = ["I own a boat.", "Good morning.", "My boat is old.", "The boat leaks."]
    messages = tuple(
        (None, Message("user", text, id=f"m{place}", created_at=datetime(2025, 3, 1, 9, place, tzinfo=UTC)))
        for place, text in enumerate(said)
    )
    questions = (
        Question("What is owned?", "a boat", evidence=("m0",)),
        Question("What leaks?", "the boat", evidence=("m3",)),
        Question("Who is owned?", None),
        Question("What is old?", "the boat", category=5),
    )
    return Conversation(id, messages, questions)


def student(label: str, weights: Weights | None = None, **adapters: Weights | None) -> Student:
    return Student(
        label=label,
        place="in process",
        base=weights,
        adapters=adapters,
        precision="float32",
        engine="torch 1",
        command=f"memlora eval efficiency --base {label}",
    )


BASE = Weights(parameters=10, bytes=2**30, stored_as=("BF16",))
ADAPTER = Weights(parameters=1, bytes=2**28, stored_as=("F32",))
Measured = Callable[..., list[FakeBackend]]


@pytest.fixture
def measured(clock: Clock, tmp_path: Path) -> Measured:
    """Measures one student of which each run is slower than the one before by half of the first; its backends."""

    def run(label: str, **options: Any) -> list[FakeBackend]:
        opened: list[FakeBackend] = []

        def backend(pass_id: str) -> FakeBackend:
            number = pass_id.partition(",")[0]
            opened.append(Timed(clock, slow=1 + int(number) / 2 if number.isdigit() else 100.0))
            return opened[-1]

        adapters = {"update": ADAPTER} if "experts" in label else {}
        subject = Subject(student(label, BASE, **adapters), backend, Settings())
        talks = options.pop("talks", [talk()])
        with Journal(tmp_path / "efficiency.jsonl") as journal:
            efficiency.measure(subject, talks, WordEmbedder(), journal, **({"runs": 2, "concurrency": 4} | options))
        assert all(one.closed for one in opened)
        return opened

    return run


@pytest.fixture
def found(tmp_path: Path) -> Callable[[], Efficiency]:
    def read() -> Efficiency:
        with Journal(tmp_path / "efficiency.jsonl") as journal:
            rows = tuple(efficiency.rows(journal))
        return Efficiency(
            machine=machine.Machine(cores=2, cpu="a fake"), work={"work": "4 turns"}, concurrency=4, rows=rows
        )

    return read


def cells(found: Efficiency, title: str) -> list[tuple[str, ...]]:
    return next(list(table.rows) for table in tables(found) if table.title.startswith(title))


def told(spread: Spread | None) -> tuple[float, float]:
    assert spread is not None
    assert spread.sd is not None
    return spread.mean, spread.sd


def test_figures_are_those_of_the_clock(measured: Measured, found: Callable[[], Efficiency]) -> None:
    measured("small + experts", first_text=True)
    [row] = found().rows
    first, second = row.runs
    # 4 turns, of which 3 tell a fact; for the second and third there is an old one to compare it with; 2 questions
    assert {stage: used.calls for stage, used in first.alone.items()} == {
        "extraction": 4,
        "update": 2,
        "generation": 2,
    }
    assert first.alone["extraction"] == ExpertUsage(calls=4, input_tokens=400, output_tokens=80, seconds=8.0)
    assert second.alone["update"] == ExpertUsage(calls=2, input_tokens=120, output_tokens=80, seconds=15.0)
    assert first.at_once == first.alone  # the fake clock knows no calls side by side
    assert first.first_text["update"].seconds == 2.5
    assert (first.remember_seconds, first.answer_seconds) == (8.0 + 10.0, 2.0)
    assert (first.turns, first.questions, first.facts, first.failures, first.cut_off) == (4, 2, 3, 0, 0)

    shown = figures(row)
    assert shown["output_tokens"]["mean"] == Spread(mean=22.0, sd=0.0)
    assert told(shown["seconds"]["extraction"]) == pytest.approx((2.5, 0.5**0.5))
    # 22 tokens in (2 + 5 + 1) / 3 s, and in half as much again
    assert told(shown["tokens_per_second"]["mean"]) == pytest.approx((6.875, (8.25 - 5.5) / 2**0.5))
    assert cells(found(), "Efficiency") == [
        ("small + experts", "1.25", "6.9 ± 1.9", "22.00 ± 0.00", "3.333 ± 0.943", "6.9 ± 1.9")
    ]
    assert cells(found(), "Output tokens per answer (Table A7)")[0][1:] == (
        *("20.00 ± 0.00", "40.00 ± 0.00", "6.00 ± 0.00"),
        "22.00 ± 0.00",
    )
    assert cells(found(), "Input tokens per answer (Table A6)")[0][1:4] == (
        *("100.00 ± 0.00", "60.00 ± 0.00"),
        "30.00 ± 0.00",
    )
    assert cells(found(), "Seconds until the first text")[0][1] == "0.625 ± 0.177"
    assert cells(found(), "Size") == [
        ("small", "base", "10", "1", "BF16"),
        ("small", "update", "1", "0.25", "F32"),
    ]
    *memory, load = cells(found(), "The memory")[0]
    assert float(load) >= 0
    assert tuple(memory) == ("small + experts", "1", "4.500", "1.000", "4, 2, 2", "3", "0", "0")


def test_one_run_has_no_deviation_and_one_call_at_a_time_no_throughput(
    measured: Measured, found: Callable[[], Efficiency]
) -> None:
    backends = measured("small", runs=1, concurrency=1)
    held, warmed_up, working = backends
    assert (len(held.requests), len(working.requests)) == (0, 8)
    assert [request.max_tokens for request in warmed_up.requests] == [16, 16, 16]
    assert {request.expert for request in warmed_up.requests} == {"extraction", "update", "generation"}
    assert cells(found(), "Efficiency") == [("small", "1", "8.2", "22.00", "2.667")]
    assert {table.title for table in tables(found())}.isdisjoint({"tok/s, 4 at once"})


def test_what_was_measured_is_not_measured_again(measured: Measured, found: Callable[[], Efficiency]) -> None:
    measured("small", runs=1)
    heard: list[int] = []
    measured("small", runs=3, on_run=heard.append)
    assert heard == [1, 2]
    assert measured("small", runs=3) == []
    measured("other", runs=1)
    assert [(row.student.label, len(row.runs)) for row in found().rows] == [("small", 3), ("other", 1)]
    assert found().commands == ("memlora eval efficiency --base small", "memlora eval efficiency --base other")
    with pytest.raises(InvalidInputError, match="at least 1"):
        measured("small", runs=0)


def test_a_damaged_journal_is_told_with_its_line(
    measured: Measured, found: Callable[[], Efficiency], tmp_path: Path
) -> None:
    measured("small", runs=1)
    file = tmp_path / "efficiency.jsonl"
    file.write_text(file.read_text() + '{"student": {"label": "small"}}\n')
    for use in (found, lambda: measured("small", runs=2)):
        with pytest.raises(DatasetError, match=r"efficiency\.jsonl, line 2 is damaged: .*Delete that line"):
            use()


def test_an_operation_without_a_call_is_said_to_be_none(measured: Measured, found: Callable[[], Efficiency]) -> None:
    said = ((None, Message("user", "I own a boat.", id="m0")),)
    measured("small", talks=[Conversation("ana", said, talk().questions[:1])])
    table_3 = cells(found(), "Efficiency")[0]
    assert table_3[2:] == ("not available: no call",) * 4
    updates = cells(found(), "Seconds per answer")[0]
    assert updates == ("small", "2.500 ± 0.707", "not available: no call", "1.250 ± 0.354", "not available: no call")


def test_the_report_begins_with_the_command_and_the_files_say_the_same(
    measured: Measured, found: Callable[[], Efficiency], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured("small")
    measured("small + experts")
    whole = found()
    whole.write(tmp_path / "out")
    lines = (tmp_path / "out" / "report.md").read_text().splitlines()
    assert lines[:4] == ["# Efficiency", "", "```", "memlora eval efficiency --base small"]
    assert "- Machine: 2 cores of a fake" in lines
    assert "- small: torch 1; computes in float32" in lines
    assert "- Work: 4 turns" in lines
    assert "- Runs: 2 of small, 2 of small + experts" in lines
    assert "warm-up" in markdown(whole)
    assert "\n".join(table.markdown() for table in tables(whole)) in markdown(whole)
    told = json.loads((tmp_path / "out" / "efficiency.json").read_text())
    assert told["figures"]["small"]["seconds"]["update"] == {"mean": 6.25, "sd": pytest.approx(1.7677, abs=1e-4)}
    kept = {name: told[name] for name in Efficiency.model_fields}
    assert Efficiency.model_validate(kept) == whole
    assert (tmp_path / "out" / "efficiency.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("memlora_plugins.evaluation.plots.available", lambda: False)
    whole.write(tmp_path / "undrawn")
    assert "install matplotlib" in (tmp_path / "undrawn" / "report.md").read_text()
    assert not (tmp_path / "undrawn" / "efficiency.png").exists()


def test_a_size_that_only_a_server_knows() -> None:
    work = Work(alone={}, turns=1, questions=1, facts=0, failures=0, cut_off=0, remember_seconds=1, answer_seconds=1)
    row = Row(student=student("far + experts", BASE, update=None), runs=(work,))
    found = Efficiency(machine=machine.this_machine(), work={}, concurrency=1, rows=(row,))
    assert cells(found, "Efficiency")[0][1] == "not available: on a server only"
    assert cells(found, "Size")[1] == ("far", "update", "not available: on a server only", "", "")


def test_a_portion_asks_what_its_turns_answer() -> None:
    [part] = efficiency.portion([talk()], turns=2)
    assert [question.text for question in part.questions] == ["What is owned?"]
    assert len(part.messages) == 2
    [whole] = efficiency.portion([talk()], questions=1)
    assert (len(whole.messages), len(whole.questions)) == (4, 1)
    assert len(efficiency.portion([talk()])[0].questions) == 2
    with pytest.raises(InvalidInputError, match="take more turns"):
        efficiency.portion([Conversation("ana", talk().messages, talk().questions[1:])], turns=2)


# Students ------------------------------------------------------------------------------------------------------------


@needs_nano
def test_nano_in_process(tmp_path: Path) -> None:
    what = Candidate(name="nano", base="nano")
    subjects = students.in_process(what, "float32", "the command")
    assert [subject.student.label for subject in subjects] == students.labels(what, "in process")
    said = ["I live in Porto.", "I moved to Lisbon last week."]
    messages = tuple(
        (None, Message("user", text, name="Ana", created_at=datetime(2025, 3, 1 + place, tzinfo=UTC)))
        for place, text in enumerate(said)
    )
    talks = [Conversation("ana", messages, (Question("Where do I live?", "Lisbon"),))]
    with Journal(tmp_path / "efficiency.jsonl") as journal:
        for subject in subjects:
            efficiency.measure(subject, talks, WordEmbedder(), journal, runs=1, concurrency=2)
        base, experts = efficiency.rows(journal)
    assert base.student.weights == model_weights(nano.BASE)
    assert experts.student.weights is not None
    assert experts.student.weights.parameters == 4_854_016 + 3 * 1_146_880
    assert "torch" in base.student.engine
    for row in (base, experts):
        [run] = row.runs
        assert run.alone["extraction"].calls == 2
        assert run.alone["generation"].calls == 1
        assert run.at_once["extraction"].input_tokens == run.alone["extraction"].input_tokens
        assert all(used.seconds > 0 for used in run.alone.values())
    # the short prompts are the experts' own
    assert 2 * experts.runs[0].alone["extraction"].input_tokens < base.runs[0].alone["extraction"].input_tokens


def tiny(model: TinyModel, **adapters: Path) -> Candidate:
    named = {expert: str(folder) for expert, folder in adapters.items()}
    return Candidate(name="tiny", base=str(model.path), adapters=named)


def test_models_that_are_none(tiny_model: TinyModel, no_nano: None, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make nano"):
        students.folder_of(Candidate(name="nano", base="nano"))
    with pytest.raises(SettingsError, match="no model folder"):
        students.folder_of(Candidate(name="none", base=str(tmp_path / "none")))
    with pytest.raises(AdapterInvalidError, match="no adapter folder"):
        students.folder_of(tiny(tiny_model, update=tmp_path / "none"))
    far, other = (
        Candidate(name="far", base="far", base_url="http://127.0.0.1:9", adapters={"update": name}) for name in "uv"
    )
    assert students.folder_of(far) is None
    assert students.digest_of(far) != students.digest_of(other)


@pytest.mark.parametrize("kind", ["weights", "shape"])
def test_an_adapter_of_another_base(tiny_model: TinyModel, tmp_path: Path, kind: str) -> None:
    import shutil

    folder = tmp_path / "update"
    shutil.copytree(tiny_model.adapters["update"], folder)
    if kind == "weights":
        (folder / "memlora.json").write_text(json.dumps({"base_sha256": "0" * 64}))
    else:
        write_tensors(
            folder / "adapter_model.safetensors", {"model.layers.7.self_attn.q_proj.lora_A.weight": ("F32", (1, 1), 4)}
        )
    with pytest.raises(AdapterInvalidError, match=r"trained on other weights|another base model"):
        students.folder_of(tiny(tiny_model, update=folder))


def test_a_student_on_a_server(fake_server: FakeModelServer, tiny_model: TinyModel, tmp_path: Path) -> None:
    fake_server.adapters["u"] = "/u"
    fake_server.reply("extraction", says("owns a boat"))
    fake_server.reply("update", decides(("0", "NONE", "owns a boat")))
    what = tiny(tiny_model, update=tiny_model.adapters["update"])
    subjects = students.on_server(
        what, fake_server.base_url, "base", {"update": "u"}, precision=None, api_key=None, command=""
    )
    with Journal(tmp_path / "efficiency.jsonl") as journal:
        for subject in subjects:
            efficiency.measure(subject, [talk()], WordEmbedder(), journal, runs=2, concurrency=2, first_text=True)
        base, experts = efficiency.rows(journal)
    assert (base.student.place, base.student.precision, base.student.engine) == ("vLLM", "the server's own", "vLLM")
    assert base.student.label == "tiny, vLLM"
    assert experts.student.base == base.student.base == model_weights(tiny_model.path)
    assert {body["model"] for body in fake_server.requests} == {"base", "u"}
    # a server keeps what it read: each pass of each run has a cache of its own
    assert len({body["cache_salt"] for body in fake_server.requests}) == 2 * (1 + 2 * 3)
    fake_server.stop()
    with pytest.raises(BackendUnavailableError, match="--base-url"):
        students.server_version(fake_server.base_url)


# Machine -------------------------------------------------------------------------------------------------------------


def test_what_it_was_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.this_machine()
    assert here.cores >= 1
    assert here.cpu
    assert str(machine.Machine(cores=1, cpu="Zen 9", gpus=("H200",))) == "1 core of Zen 9, H200"
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Zen   9\n")
    assert machine._cpu(info) == "Zen 9"
    info.write_text("processor : 0\n")
    assert machine._cpu(info)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert machine.this_machine().gpus == ()
    assert machine.versions("numpy", "no-such-package").endswith(", no-such-package not installed")
