"""The Python of langchain-memlora's README runs, with nano, and does what its reader would notice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import readme
from brain import ScriptedChatModel, from_memory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

import langchain_memlora
from memlora_plugins import Memory, Scope

FOLDER = Path(__file__).parents[2] / "integrations" / "langchain-memlora"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
BLOCKS = readme.blocks(README)


@pytest.fixture
def model() -> ScriptedChatModel:
    return ScriptedChatModel(script=from_memory)


def execute(name: str, model: ScriptedChatModel, *, opens: str = 'path="memory"', opened: str | None = None) -> None:
    """Runs a block with nothing but `model` around it; `opened` are other arguments for what it opens."""
    code = BLOCKS[name]
    assert code.count(f".open({opens})") == 1
    code = code.replace(opens, opened or opens)
    exec(compile(code, f"README.md, {name}", "exec"), {"model": model})


def shown(messages: list[BaseMessage]) -> str:
    """What a model was shown besides the conversation."""
    return "\n".join(str(message.text) for message in messages if isinstance(message, SystemMessage))


def test_no_block_is_forgotten() -> None:
    tested = re.findall(r'execute\("([\w ]+)"', Path(__file__).read_text(encoding="utf-8"))
    assert set(BLOCKS) == set(tested)


def test_the_ten_lines(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert len([line for line in BLOCKS["agent"].splitlines() if line]) <= 11
    execute("agent", model)
    assert "My dog is called Biscuit." in shown(model.seen[-1])
    assert [message.text for message in model.seen[-1][1:]] == ["What is my dog called?"]
    assert re.fullmatch(r'You told me: .*My dog is called Biscuit\."?\n', capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_conversation_memory(model: ScriptedChatModel) -> None:
    execute("conversation memory", model)
    [[told], [asked]] = model.seen
    assert "memlora-memories" not in told.text
    before, _, after = asked.text.partition("</memlora-memories>")
    assert "I live in Porto." in before.partition("<memlora-memories>")[2]
    assert after == "\nHuman: Where do I live?\nAI:"


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_chat_history(model: ScriptedChatModel) -> None:
    execute("chat history", model)
    conversation = ["I live in Porto.", "I see.", "Where do I live?"]
    assert [message.text for message in model.seen[-1]] == conversation
    execute("chat history", model)  # as after a restart
    assert [message.text for message in model.seen[-1]][:3] == conversation
    assert len(model.seen[-1]) == 7


def test_toolkit(capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: list[BaseMessage]) -> AIMessage | str:
        if not isinstance(messages[-1], HumanMessage):
            return "Noted."
        arguments = {"text": "The user is allergic to peanuts.", "user_id": "ben"}
        return AIMessage("", tool_calls=[{"name": "save_memory", "args": arguments, "id": "1"}])

    execute("toolkit", ScriptedChatModel(script=script))
    assert capsys.readouterr().out == "['The user is allergic to peanuts.']\n"


def test_memory(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    execute("memory", model)
    found, retrieved = capsys.readouterr().out.splitlines()
    assert found.startswith("The user: I live in Porto. ")
    assert re.fullmatch(r"The user: I live in Porto\. \d{4}-\d\d-\d\dT.*", retrieved)


def test_memo(isles_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    founder, teacher = "Who is the founder of the Kelp Archive?", "Who taught Ilse Varga?"
    steps = [
        {"sub_questions": [{"question": founder}]},
        {"decision": "ask", "entity_confirmed": True, "confirmed_entity": "Ilse Varga", "sub_questions": []},
        {"decision": "ask", "sub_questions": [{"question": teacher}]},
        {"decision": "ask", "sub_questions": [{"question": "Where was Lena Moravec born?"}]},
        {"decision": "answer"},
        {"final_answer": "Tinhaven", "justification": "Lena Moravec was born there."},
    ]

    def script(messages: list[BaseMessage]) -> AIMessage | str:
        if steps:
            return json.dumps(steps.pop(0))
        if isinstance(messages[-1], ToolMessage):
            return str(messages[-1].text)
        arguments = {"questions": [founder, teacher]}
        return AIMessage("", tool_calls=[{"name": "ask_memory_model", "args": arguments, "id": "1"}])

    model = ScriptedChatModel(script=script)
    execute("memo", model, opens='"build/memo/model"', opened=f"{str(isles_model)!r}")
    assert capsys.readouterr().out == (
        "Answer: Tinhaven\nWhy: Lena Moravec was born there.\n"
        f"1. {founder} -> Ilse Varga\n2. {teacher} -> Lena Moravec\n"
    )


def test_context(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    execute("context", model)
    assert capsys.readouterr().out == "['I live in Porto.', 'I see.']\n"


def test_warnings(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    execute("warnings", model)
    assert capsys.readouterr().out == "I see."


def test_warnings_of_a_model_that_is_down(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    execute("warnings", model, opened='path="memory", base_url="http://127.0.0.1:9", model="down"')
    assert capsys.readouterr().out.startswith("I see.memory fell short: extraction No model server answers")
    with Memory.open(path="memory", model="none") as memory:
        assert [turn.text for turn in memory.turns(scope=Scope("ana"), pending=True)] == ["I live in Porto."]


def test_usage(model: ScriptedChatModel, capsys: pytest.CaptureFixture[str]) -> None:
    execute("usage", model)
    assert int(capsys.readouterr().out) > 0


def test_every_class_is_named() -> None:
    for name in langchain_memlora.__all__:
        assert f"`{name}`" in README


def test_every_link_leads_somewhere() -> None:
    assert readme.broken_links(README, FOLDER) == []
