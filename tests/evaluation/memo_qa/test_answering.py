"""What answers are kept under: a Memory model by its weights and its threshold, whatever its server's address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import hops
import hops_models
import pytest
from fake_server import FakeModelServer
from tiny_model import TinyModel

from memlora_plugins.errors import SettingsError
from memlora_plugins.evaluation.harness.endpoints import ExecutiveEndpoint, JudgeEndpoint
from memlora_plugins.evaluation.memo_qa import answering as memo_qa
from memlora_plugins.evaluation.memo_qa import report as memo_report
from memlora_plugins.evaluation.memo_qa import scores as memo_scores
from memlora_plugins.evaluation.memo_qa.config import MemoConfig, MemoryEntry
from memlora_plugins.evaluation.memo_qa.material import load_material
from memlora_plugins.evaluation.memo_qa.reading import GivenAnswer
from memlora_plugins.memo.card import MemoCard, TrainedDocument, write_card
from memlora_plugins.training.journal import Journal

CARD = MemoCard(documents=(TrainedDocument(id="d1"),))


@pytest.fixture
def executive() -> Iterator[FakeModelServer]:
    with hops_models.executive() as server:
        yield server


@pytest.fixture
def lora(tiny_model: TinyModel, tmp_path: Path) -> Path:
    """A LoRA Memory model beside its base."""
    folder = tmp_path / "lora"
    shutil.copytree(tiny_model.adapters["generation"], folder)
    write_card(folder, CARD)
    return folder


def configuration(tmp_path: Path, executive: FakeModelServer, **memory: object) -> MemoConfig:
    return MemoConfig(
        questions=hops.write_rows(tmp_path / "musique.jsonl"),
        noise=(0,),
        runs=1,
        baselines=(),
        executive=(ExecutiveEndpoint(base_url=executive.base_url, model="large"),),
        memory=(MemoryEntry(name="rivers", protocols=("single_turn",), **memory),),  # type: ignore[arg-type]
    )


async def answered(config: MemoConfig, folder: Path) -> list[GivenAnswer]:
    memo_qa.check_models(config)
    with Journal(folder / "answering.jsonl") as journal:
        return await memo_qa.aanswered(config, load_material(config), {}, journal=journal)


async def test_an_adapter_is_known_by_its_weights_and_its_threshold(
    tmp_path: Path, executive: FakeModelServer, lora: Path, tiny_model: TinyModel
) -> None:
    async def asked() -> tuple[int, list[GivenAnswer], MemoConfig]:
        with FakeModelServer() as server:  # on another port each time
            server.reply("memory", hops_models.remembers)
            base = str(tiny_model.path)
            config = configuration(tmp_path, executive, folder=lora, base=base, base_url=server.base_url)
            before = len(executive.requests)
            answers = await answered(config, tmp_path)
            return len(executive.requests) - before, answers, config

    assert (await asked())[0] == 6
    write_card(lora, MemoCard())
    requests, answers, config = await asked()
    assert requests == 0
    write_card(lora, MemoCard(abstain_below=0.5))
    with pytest.raises(SettingsError, match="does not tell how likely its tokens are"):
        await asked()
    score = memo_scores.summaries(answers)[0]
    assert score.scores["contains"].mean == pytest.approx(2 / 3)
    run = memo_report.memo_run(
        config, load_material(config), [score], command="x", embedder=None, unjudged=memo_qa.NO_JUDGE
    )
    [memory] = run.memory
    assert memory.parameters is not None
    assert memory.parameters > 1000, "of base and adapter"


async def test_a_whole_model_is_known_by_its_weights(
    tmp_path: Path, executive: FakeModelServer, tiny_model: TinyModel
) -> None:
    folder = tmp_path / "whole"
    shutil.copytree(tiny_model.path, folder)
    write_card(folder, CARD)
    with hops_models.memory_server() as server:
        config = configuration(tmp_path, executive, folder=folder, base_url=server.base_url)
        await answered(config, tmp_path)
        asked = len(executive.requests)
        await answered(config, tmp_path)
        assert len(executive.requests) == asked
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        await answered(config, tmp_path)
        assert len(executive.requests) == 2 * asked


async def test_what_failed_is_nothing_to_judge() -> None:
    answer = {"method": "x", "run": 1, "id": "a", "question": "A?", "kind": "k", "expected": ("b",)}
    scores = {"contains": 0.0, "exact_match": 0.0, "token_f1": 0.0}
    given = [
        GivenAnswer(**answer, answer=said, scores=scores)  # type: ignore[arg-type]
        for said in (None, "b", "b")
    ]
    with hops_models.judge() as server:
        endpoint = JudgeEndpoint(base_url=server.base_url, model="strict")
        judged, unavailable = await memo_qa.ajudged(given, endpoint)
        assert len(server.requests) == 1, "equal answers are judged once"
    assert unavailable is None
    assert judged[0].verdict is None
    assert [one.verdict.correct for one in judged[1:] if one.verdict] == [True, True]


def test_what_a_reader_of_the_report_is_told(tmp_path: Path, executive: FakeModelServer) -> None:
    config = configuration(tmp_path, executive, base_url="http://127.0.0.1:1", model="m").model_copy(
        update={"temperature": 0.0, "runs": 3, "baselines": ("BM25",)}
    )
    told = GivenAnswer(
        method="x",
        run=1,
        id="a",
        question="A?",
        kind="k",
        expected=("b",),
        answer="b",
        scores={"contains": 1.0, "exact_match": 1.0, "token_f1": 1.0},
        unanswered=2,
    )
    scores = memo_scores.summaries([told])
    run = memo_report.memo_run(config, load_material(config), scores, command="x", embedder=None, unjudged=None)
    text = run.markdown(drawn=False)
    assert "At temperature 0 the runs of a reader differ by what its server leaves to chance alone." in text
    assert "2 questions to a Memory model failed on the way" in text
    assert "sub-questions failed" in text
    assert "No figure: install matplotlib" in text
