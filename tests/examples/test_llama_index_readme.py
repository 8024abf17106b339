"""The Python of llama-index-memory-memlora's README runs, with nano, and does what its reader would notice."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import readme
from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms.mock import MockFunctionCallingLLM

import llama_index.memory.memlora
from memlora_plugins import Memory, Scope

FOLDER = Path(__file__).parents[2] / "integrations" / "llama-index-memory-memlora"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCKS = readme.blocks(README)


class Model:
    """A scripted LLM: it saves what it is asked to remember, and acknowledges everything else."""

    def __init__(self) -> None:
        self.seen: list[Sequence[ChatMessage]] = []
        self.llm = MockFunctionCallingLLM(response_generator=self._reply, is_chat_model=True)

    def _reply(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatMessage:
        self.seen.append(messages)
        last = messages[-1]
        if kwargs.get("tools") and last.role == MessageRole.USER and "Remember that" in str(last.content):
            arguments = {"text": "The user is allergic to peanuts.", "user_id": "ben"}
            call = ToolCallBlock(tool_call_id="1", tool_name="save_memory", tool_kwargs=arguments)
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content="I see.")

    @property
    def shown(self) -> str:
        return "\n".join(str(message.content) for message in self.seen[-1])


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    dispatcher = get_dispatcher()
    before = list(dispatcher.event_handlers)
    yield
    dispatcher.event_handlers[:] = before


async def execute(
    name: str, model: Model, *, opens: str = 'path="memory"', opened: str | None = None
) -> dict[str, Any]:
    """Runs a block with nothing but `llm` around it; `opened` are other arguments for what it opens. Returns the names
    that it leaves.
    """
    code = BLOCKS[name]
    assert code.count(f".open({opens})") == 1
    code = code.replace(opens, opened or opens)
    compiled = compile(code, f"README.md, {name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"llm": model.llm}
    result = eval(compiled, names)
    if inspect.iscoroutine(result):
        await result
    return names


def test_no_block_is_forgotten() -> None:
    tested = re.findall(r'execute\("([\w ]+)"', Path(__file__).read_text(encoding="utf-8"))
    assert set(BLOCKS) == set(tested)


async def test_the_ten_lines(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert len([line for line in BLOCKS["agent"].splitlines() if line]) <= 10
    await execute("agent", model)
    assert '] user said: "My dog is called Biscuit."' in model.shown
    assert capsys.readouterr().out == "I see.\n"


async def test_chat_engine(model: Model) -> None:
    await execute("chat engine", model)
    assert '] user said: "I live in Porto."' in model.shown
    await execute("chat engine", model)  # as after a restart
    assert [message.role.value for message in model.seen[-1]] == ["user", "assistant", "user"]


async def test_retriever(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    await execute("retriever", model)
    found, also, answer = capsys.readouterr().out.splitlines()
    assert {line.partition(" ")[0] for line in (found, also)} == {"fact", "turn"}
    assert "I live in Porto." in found
    assert answer == "I see."
    assert "I live in Porto." in model.shown


async def test_block(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    names = await execute("block", model)
    await names["composed"].sql_store._async_engine.dispose()  # the framework's `Memory` leaves its database open
    shown = capsys.readouterr().out
    assert shown.startswith("system <memory>\n<rules>\nAnswer briefly.\n</rules>\n<LongTermMemory>\n")
    assert "] The user: I live in Porto." in shown


async def test_tools(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    await execute("tools", model)
    assert "The user is allergic to peanuts." in capsys.readouterr().out


async def test_query_engine(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    await execute("query engine", model)
    assert capsys.readouterr().out == "Porto ['The user: I live in Porto.']\nmemory\n"


async def test_memo(model: Model, isles_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    founder, teacher = "Who is the founder of the Kelp Archive?", "Who taught Ilse Varga?"
    steps = [
        {"sub_questions": [{"question": founder}]},
        {"decision": "ask", "entity_confirmed": True, "confirmed_entity": "Ilse Varga", "sub_questions": []},
        {"decision": "ask", "sub_questions": [{"question": teacher}]},
        {"decision": "ask", "sub_questions": [{"question": "Where was Lena Moravec born?"}]},
        {"decision": "answer"},
        {"final_answer": "Tinhaven", "justification": "Lena Moravec was born there."},
    ]

    def reply(messages: Sequence[ChatMessage], **more: Any) -> ChatMessage:
        if messages[-1].role == MessageRole.TOOL:
            return ChatMessage(role="assistant", content=messages[-1].content)
        if more.get("tools"):
            arguments = {"questions": [founder, teacher]}
            call = ToolCallBlock(tool_call_id="1", tool_name="ask_memory_model", tool_kwargs=arguments)
            return ChatMessage(role="assistant", blocks=[call])
        return ChatMessage(role="assistant", content=json.dumps(steps.pop(0)))

    model.llm = MockFunctionCallingLLM(response_generator=reply, is_chat_model=True)
    await execute("memo", model, opens='"build/memo/model"', opened=f"{str(isles_model)!r}")
    assert capsys.readouterr().out == (
        "Tinhaven ['Ilse Varga', 'Lena Moravec', 'Tinhaven']\n"
        f"1. {founder} -> Ilse Varga\n2. {teacher} -> Lena Moravec\n"
    )


async def test_context(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    await execute("context", model)
    assert capsys.readouterr().out == "['The user is allergic to peanuts.']\n"


async def test_warnings(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    await execute("warnings", model)
    assert capsys.readouterr().out == "I see.\n"
    await execute("warnings", model, opened='path="memory", base_url="http://127.0.0.1:9", model="down"')
    assert capsys.readouterr().out.startswith("memory fell short: extraction No model server answers")
    with Memory.open(path="memory", model="none") as memory:
        assert [turn.text for turn in memory.turns(scope=Scope("ana"), pending=True)] == ["I live in Porto."]


async def test_restore(model: Model) -> None:
    await execute("restore", model)
    assert [message.role.value for message in model.seen[-1]] == ["user", "assistant", "user"]
    assert json.dumps(model.seen[-1][0].content) == '"I live in Porto."'


def test_every_class_is_named() -> None:
    for name in llama_index.memory.memlora.__all__:
        assert f"`{name}`" in README


def test_every_link_leads_somewhere() -> None:
    assert readme.broken_links(README, FOLDER) == []
