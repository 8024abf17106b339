"""What `MemLoRAMemory` keeps of a conversation, and what of it and of the memories it shows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.memory import Memory as ChatMemory
from llama_index.core.memory import StaticMemoryBlock
from llama_index.core.memory.memory import InsertMethod
from llama_index.core.storage.chat_store.base_db import MessageStatus
from scripted import FakeBackend
from scripted_llm import Brain, Make, call, reply, texts, user
from two_people import ANA, FlakyStore

from memlora_plugins import (
    Memory,
    Message,
    MessageError,
    Scope,
    StoreUnavailableError,
)

# --- the chat history ------------------------------------------------------------------------------------------------


def test_it_is_a_memory_of_the_framework(made: Make) -> None:
    ours = made()
    assert isinstance(ours, ChatMemory)
    assert ours.class_name() == "MemLoRAMemory"
    assert made(None).session_id != made(None).session_id


def test_messages_come_back_as_they_were(made: Make) -> None:
    said = [
        ChatMessage(role="system", content="Be kind."),
        user("Look."),
        ChatMessage(role="user", blocks=[TextBlock(text="This:"), ImageBlock(url="https://example.org/a.png")]),
        ChatMessage(role="assistant", blocks=[call("clock")], additional_kwargs={"x": {"y": 1}}),
        ChatMessage(role="tool", content="noon", additional_kwargs={"tool_call_id": "1"}),
        ChatMessage(role="assistant", content=None, additional_kwargs={"tool_calls": [{"id": "2"}]}),
        ChatMessage(role="chatbot", content="Done.\n"),
        ChatMessage(role="user", blocks=[ImageBlock(image=b"GIF89a" + bytes(20), image_mimetype="image/gif")]),
    ]
    made().put_messages(said)
    back = made().get_all()
    assert [message.model_dump(mode="json") for message in back] == [m.model_dump(mode="json") for m in said]


def test_a_message_that_says_nothing_is_left_out(made: Make) -> None:
    ours = made()
    ours.put(ChatMessage(role="assistant", content=None))
    ours.put_messages([ChatMessage(role="assistant", content=None), user("  "), user("Hello")])
    assert texts(ours.get_all()) == ["Hello"]
    with pytest.raises(MessageError, match="ChatMessage"):
        ours.put("Hello")


def test_what_is_given_out_can_be_changed(made: Make) -> None:
    ours = made()
    ours.put(user("Hello"))
    for messages in (ours.get(), ours.get_all()):
        messages[0].blocks[0].text = "changed"
        messages[0].blocks.append(TextBlock(text="more"))
    assert texts(ours.get_all()) == ["Hello"]


@pytest.mark.parametrize("sync", [True, False])
def test_a_history_that_is_set_is_kept_once(memory: Memory, made: Make, backend: FakeBackend, sync: bool) -> None:
    ours = made()

    def let_it_be(messages: list[ChatMessage]) -> list[str | None]:
        if sync:
            ours.set(messages)
        else:
            asyncio.run(ours.aset(messages))
        assert texts(made().get_all()) == texts(ours.get_all())
        return texts(ours.get_all())

    first = [user("I moved. «Ana lives in Porto»"), reply("Nice."), user("Yes."), reply("Nice.")]
    assert let_it_be(first) == texts(first)
    assert let_it_be(first[:2]) == texts(first[:2])
    assert let_it_be([*first, user("And?"), reply("Nice.")]) == [*texts(first), "And?", "Nice."]
    assert let_it_be([reply("Nice."), user("Yes.")]) == ["Nice.", "Yes."]
    assert let_it_be([]) == []
    memory.flush()
    assert len(memory.turns(scope=ANA)) == 6 + 4  # with marks where the history does not just go on
    assert len(backend.asked("extraction")) == 3
    assert [hit.text for hit in memory.search("history set", scope=ANA, kinds=["turn"]) if "history" in hit.text] == []


async def test_a_history_passed_with_every_run_is_kept_once(memory: Memory, made: Make, brain: Brain) -> None:
    history: list[ChatMessage] = []
    for line in ("I moved. «Ana lives in Porto»", "I sing. «Ana sings»"):
        await brain.agent().run(line, chat_history=history, memory=made())
        history = [*history, user(line), reply("I see.")]
    assert texts(await made().aget_all()) == texts(history)
    spoken = [turn for turn in memory.turns(scope=ANA) if turn.spoken]
    assert [turn.text for turn in spoken] == texts(history)


def test_a_history_that_is_set_again_and_again_leaves_no_marks(memory: Memory, made: Make) -> None:
    history = [user("Hello."), reply("Hello.")]
    for _ in range(5):
        made().set(history)
    assert len(memory.turns(scope=ANA)) == 2


def test_what_is_set_is_not_taken_for_something_like_it(made: Make) -> None:
    def asked(city: str, id: str) -> list[ChatMessage]:
        tool = ToolCallBlock(tool_call_id=id, tool_name="weather", tool_kwargs={"city": city})
        result = ChatMessage(role="tool", content="sunny", additional_kwargs={"tool_call_id": id})
        return [user(f"The weather in {city}?"), ChatMessage(role="assistant", blocks=[tool]), result, reply("Sunny.")]

    def picture(number: int) -> ChatMessage:
        return ChatMessage(
            role="user", blocks=[TextBlock(text="Look."), ImageBlock(url=f"https://example.org/{number}.png")]
        )

    rome, paris = asked("Rome", "c1"), asked("Paris", "c2")
    for history in (rome, paris, [*rome, *paris], paris, [picture(1)], [picture(2), picture(1)]):
        ours = made()
        ours.set(history)
        assert [one.model_dump(mode="json") for one in made().get_all()] == [m.model_dump(mode="json") for m in history]


async def test_a_history_passed_during_an_outage_is_kept_once(
    memory: Memory, made: Make, store: FlakyStore, backend: FakeBackend
) -> None:
    history = [user("«0»"), reply("Yes."), user("«1»"), reply("Yes.")]
    made().set(history)
    ours = made()  # as in another request
    store.down = True
    await ours.aset(history)
    await ours.aput(user("«2»"))
    assert texts(await ours.aget_all()) == ["«0»", "Yes.", "«1»", "Yes.", "«2»"]
    store.down = False
    await ours.aset([*history, user("«2»"), reply("Yes.")])
    await memory.aio.flush()
    assert texts(await made().aget_all()) == ["«0»", "Yes.", "«1»", "Yes.", "«2»", "Yes."]
    assert len(backend.asked("extraction")) == 3
    store.down = True
    with pytest.raises(StoreUnavailableError):
        made().reset(MessageStatus.ARCHIVED)


def test_memories_that_were_shown_are_not_said_again(memory: Memory, made: Make, backend: FakeBackend) -> None:
    memory.note("Ana lives in Porto. «Ana lives in Rome»", scope=ANA)
    ours = made()
    ours.put(user("Where do I live? «Ana asks»"))
    [shown] = ours.get()
    assert "Rome" in str(shown.content)
    ours.set([shown, reply("In Porto.")])
    assert texts(ours.get_all()) == ["Where do I live? «Ana asks»", "In Porto."]
    other = made("other")
    other.put_messages([shown, reply("In Porto.")])
    memory.flush()
    assert "Ana lives in Rome" not in [fact.text for fact in memory.facts(scope=ANA)]
    assert all("memlora-memories" not in turn.text for turn in memory.turns(scope=ANA))


def test_a_history_given_at_first_is_remembered(memory: Memory, made: Make) -> None:
    ours = made(chat_history=[user("I moved. «Ana lives in Porto»"), reply("Nice.")])
    memory.flush()
    assert texts(ours.get_all()) == ["I moved. «Ana lives in Porto»", "Nice."]
    assert [fact.text for fact in memory.facts(scope=ANA)] == ["Ana lives in Porto"]


def test_what_others_add_to_the_session_is_seen(memory: Memory, made: Make) -> None:
    ours, theirs = made(), made()
    session = Scope("ana", session_id="monday")
    for number in range(40):
        (ours if number % 3 else theirs).put(user(f"line {number}"))
        if number % 10 == 0:
            memory.add([Message("assistant", f"core {number}")], scope=session, distil=False)
            assert texts(ours.get_all())[-1] == f"core {number}"
    assert texts(ours.get_all()) == texts(theirs.get_all()) == texts(made().get_all())
    assert len(ours.get_all()) == 44


def test_only_as_much_history_is_shown_as_has_room(made: Make) -> None:
    ours = made(token_limit=300, tokenizer_fn=str.split)
    for number in range(60):
        ours.put_messages([user(f"question {number} " + "word " * 8), reply(f"answer {number} " + "word " * 8)])
        shown = ours.get()
        assert shown[0].role == MessageRole.USER
        assert shown[-1].content == ours.get_all()[-1].content
        assert sum(len(str(message.content).split()) for message in ours.get_all(MessageStatus.ACTIVE)) <= 210
        assert number < 9 or len(shown) > 10
    assert len(ours.get_all()) == 120
    active, archived = ours.get_all(MessageStatus.ACTIVE), ours.get_all(MessageStatus.ARCHIVED)
    assert texts([*archived, *active]) == texts(ours.get_all())
    assert texts(made(token_limit=300, tokenizer_fn=str.split).get())[-1] == texts(active)[-1]
    ours.reset(MessageStatus.ARCHIVED)
    assert texts(ours.get_all()) == texts(active)
    ours.reset(MessageStatus.ACTIVE)
    assert ours.get_all() == []


def test_the_last_exchange_is_shown_however_long(made: Make) -> None:
    ours = made(token_limit=50, tokenizer_fn=str.split)
    ours.put_messages([user("before"), reply("yes"), user("word " * 200)])
    assert [len(str(message.content).split()) for message in ours.get_all(MessageStatus.ACTIVE)] == [200]


def test_results_are_not_shown_without_their_calls(made: Make) -> None:
    calls = [ToolCallBlock(tool_call_id=f"c{number}", tool_name="price", tool_kwargs={}) for number in range(9)]
    results = [
        ChatMessage(role="tool", content="word " * 40, additional_kwargs={"tool_call_id": call.tool_call_id})
        for call in calls
    ]
    said = [user("Before."), reply("Yes."), user("Prices?"), ChatMessage(role="assistant", blocks=calls), *results]
    made().put_messages([*said, reply("The third.")])
    shown = made(token_limit=300, tokenizer_fn=str.split).get("And the cheapest?")
    assert str(shown[0].content).endswith("\nPrices?")
    assert len(shown) == 12


def test_what_is_changed_outside_stays_outside(made: Make) -> None:
    ours = made(memory_blocks=[StaticMemoryBlock(name="rules", static_content="Be kind.")], token_limit=100)
    for number in range(20):
        ours.put_messages([user(f"Question {number}"), reply("word " * 10)])
        ours.get()
    assert all(message.additional_kwargs == {} for message in ours.get_all())
    ours.get_all()[0].additional_kwargs["x"] = 1
    assert ours.get_all()[0].additional_kwargs == {}


def test_few_messages_are_read_of_a_long_session(memory: Memory, made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [Message("user" if number % 2 else "assistant", f"{number} " + "word " * 20) for number in range(600)]
    memory.add(said, scope=Scope("ana", session_id="monday"), distil=False)
    limits: list[int] = []
    turns = type(memory).turns

    def counted(self: Memory, **named: Any) -> Any:
        limits.append(named["limit"])
        return turns(self, **named)

    monkeypatch.setattr(type(memory), "turns", counted)
    ours = made(token_limit=1000, tokenizer_fn=str.split)
    assert len(ours.get()) < 40
    assert sum(limits) < 200
    limits.clear()
    ours.put(user("Hello"))
    ours.get()
    assert sum(limits) < 40


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_memories_stand_where_the_application_wants_them(told: Memory, made: Make) -> None:
    for method, role in ((InsertMethod.USER, "user"), ("system", "system")):
        ours = made(f"to {role}", insert_method=method)
        ours.put_messages([user("Hello."), reply("Hello."), user("Where does Ana live?")])
        shown = ours.get()
        [place] = [message for message in shown if "Porto" in str(message.content)]
        assert place.role.value == role
        assert "holds no instructions" in str(place.content)
        assert texts(ours.get_all()) == ["Hello.", "Hello.", "Where does Ana live?"]


def test_one_system_message_at_most_is_shown(told: Memory, made: Make) -> None:
    ours = made()
    ours.put_messages([ChatMessage(role="system", content="Be kind."), user("Where does Ana live?")])
    assert [message.role.value for message in ours.get()] == ["system", "user"]
    before_it_is_put = made("x").get("Where does Ana live?")  # an engine puts its question after these
    assert [message.role.value for message in before_it_is_put] == ["user", "assistant"]
    assert "Porto" in str(before_it_is_put[0].content)


@pytest.mark.parametrize("given", ["Where does Ana live?", user("Where does Ana live?")])
def test_an_engine_may_ask_before_it_puts(told: Memory, made: Make, given: Any) -> None:
    ours = made()
    assert "Porto" in str(texts(ours.get(given)))
    ours.put_messages([user("Where does Ana live?"), reply("In Porto.")])
    told.note("Ana lives in Rome", scope=ANA)
    assert "Ana lives in Rome" in str(texts(ours.get(given)))
    told.erase(scope=ANA)
    assert ours.get(given) == []


def test_without_words_nothing_is_looked_up(told: Memory, made: Make, searches: list[str]) -> None:
    ours = made()
    assert ours.get() == []
    assert ours.get("") == []
    ours.put(ChatMessage(role="user", blocks=[ImageBlock(url="https://example.org/a.png")]))
    assert len(ours.get()) == 1
    assert searches == []


def test_memories_take_no_more_room_than_there_is(memory: Memory, made: Make) -> None:
    for number in range(40):
        memory.note(f"Ana has seen the film number {number}", scope=ANA)
    shown = []
    for limit in (200, 400, 10_000):
        ours = made(f"{limit}", token_limit=limit, limit=30)
        ours.put(user("Which films has Ana seen?"))
        shown.append(str(ours.get()[0].content).count("the film number"))
        assert sum(ours._estimate_token_count(message) for message in ours.get()) <= limit
    assert shown[0] < shown[1] < shown[2]
    assert shown[2] > 20


async def test_other_blocks_stand_beside_it(told: Memory, made: Make) -> None:
    class Kept(StaticMemoryBlock):
        kept: list[str] = []  # noqa: RUF012

        async def _aput(self, messages: list[ChatMessage]) -> None:
            self.kept.extend(str(message.content) for message in messages)

    block = Kept(name="rules", static_content="Be kind.")
    ours = made(memory_blocks=[block], token_limit=400, tokenizer_fn=str.split)
    for number in range(40):
        ours.put_messages([user(f"Where does Ana live? {'word ' * number}"), reply("In Porto.")])
        shown = ours.get() if number % 2 else await ours.aget()
        assert "<rules>" in str(texts(shown))
        assert number > 9 or "] Ana lives in Porto\n" in "\n".join(map(str, texts(shown)))
    assert block.kept == texts(ours.get_all(MessageStatus.ARCHIVED)) != []
    ours.memory_blocks.clear()
    assert "<rules>" not in str(texts(ours.get()))


def test_what_was_erased_is_shown_no_more(told: Memory, made: Make) -> None:
    ours = made()
    ours.put(user("My secret is X. Where does Ana live?"))
    assert "Porto" in str(texts(ours.get()))
    told.erase(scope=ANA)
    assert ours.get() == []


def test_what_a_tool_forgot_is_shown_no_more(told: Memory, made: Make, searches: list[str]) -> None:
    ours = made()
    ours.put(user("Forget where Ana lives."))
    assert "Porto" in str(texts(ours.get()))
    [fact] = [fact for fact in told.facts(scope=ANA) if "Porto" in fact.text]
    told.forget(fact.id, scope=ANA)
    assert "Porto" not in str(texts(ours.get()))
    assert len(searches) == 2


def test_a_recall_that_failed_is_tried_again(told: Memory, made: Make, store: FlakyStore) -> None:
    ours = made()
    store.down = True
    assert ours.get("Where does Ana live?") == []
    store.down = False
    assert "Porto" in str(texts(ours.get("Where does Ana live?")))
