from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import ReplyError
from memlora_plugins.experts import extraction, update, vision
from memlora_plugins.experts.update import Decision
from memlora_plugins.experts.wording import words

OLD = ("Ana lives in Porto", "Ana likes jazz", "Ana works as a nurse")
NEW = ("Ana moved to Lisbon in May", "Ana has a dog called Rex")


def op(event: str, text: Any = "", id: Any = "9", old_memory: Any = "", **more: Any) -> dict[str, Any]:
    return {"id": id, "text": text, "event": event, "old_memory": old_memory, **more}


def decide(
    *items: Any, old: tuple[str, ...] = OLD, new: tuple[str, ...] = NEW
) -> list[tuple[str, str, int | None, int]]:
    read = update.read(json.dumps({"memory": list(items)}), old, new)
    return [(one.operation, one.text, one.target, one.fact) for one in read.items]


def add(fact: int, new: tuple[str, ...] = NEW) -> tuple[str, str, None, int]:
    return ("ADD", new[fact], None, fact)


def test_each_event_means_what_it_says() -> None:
    new = ("Ana lives in Lisbon", "Ana likes jazz a lot", "Ana quit nursing", "Ana has a dog")
    assert decide(
        op("UPDATE", "Ana lives in Lisbon, before in Porto", "0", OLD[0]),
        op("NONE", new[1], "1"),
        op("DELETE", new[2], "2"),
        op("ADD", new[3], "3"),
        new=new,
    ) == [
        ("UPDATE", "Ana lives in Lisbon, before in Porto", 0, 0),
        ("ADD", new[2], None, 2),
        ("ADD", new[3], None, 3),
        ("NONE", OLD[1], 1, 1),
        ("DELETE", OLD[2], 2, 2),
    ]


@pytest.mark.parametrize("id", [0, "0", "0.", " 0 ", 0.0, "id 0", "#0", "0.0"])
def test_ids_are_read_as_models_write_them(id: Any) -> None:
    assert decide(op("UPDATE", NEW[0], id))[0] == ("UPDATE", NEW[0], 0, 0)


@pytest.mark.parametrize("id", [3, -1, "17", "-1", None, True, "abc", "", [], {}, 0.5, 1e300, "1" * 400])
@pytest.mark.parametrize("event", ["UPDATE", "DELETE", "NONE"])
def test_an_operation_on_an_unknown_id_adds(event: str, id: Any) -> None:
    assert decide(op(event, NEW[0], id)) == [add(0), add(1)]


def test_the_quoted_old_memory_counts_more_than_the_number() -> None:
    assert decide(op("UPDATE", NEW[0], "2", "ana lives in porto."))[0] == ("UPDATE", NEW[0], 0, 0)
    assert decide(op("UPDATE", NEW[0], "77", OLD[0]))[0] == ("UPDATE", NEW[0], 0, 0)
    assert decide(op("UPDATE", NEW[0], "0", "something else"))[0] == ("UPDATE", NEW[0], 0, 0)


@pytest.mark.parametrize(
    "item",
    [
        {"id": "0", "text": NEW[0], "event": "update", "old memory": OLD[0]},
        {"ID": 0, "Text": NEW[0], "Event": " Update. ", "Old Memory": OLD[0]},
        {"id": "5", "text": NEW[0], "action": "UPDATE", "old-memory": OLD[0]},
        {"id": "0", "fact": NEW[0], "operation": "MODIFY"},
    ],
)
def test_keys_and_events_are_read_as_models_write_them(item: dict[str, Any]) -> None:
    assert decide(item) == [("UPDATE", NEW[0], 0, 0), add(1)]


def test_facts_that_the_reply_forgot_are_added() -> None:
    assert decide() == [add(0), add(1)]
    assert decide(op("ADD", NEW[1])) == [add(0), add(1)]
    assert decide(op("MAYBE", NEW[0]), op("ADD", NEW[1])) == [add(0), add(1)]


def test_listing_old_memories_says_nothing_about_new_facts() -> None:
    assert decide(*(op("NONE", text, n) for n, text in enumerate(OLD))) == [add(0), add(1)]
    assert decide(op("ADD", OLD[1]), op("UPDATE", OLD[0], "0")) == [add(0), add(1)]


def test_none_with_the_old_text_covers_a_fact_that_says_no_more() -> None:
    assert decide(op("NONE", OLD[1], "1"), new=("Likes jazz",)) == [("NONE", OLD[1], 1, 0)]
    assert decide(op("NONE", OLD[2], "2"), new=("Works as the nurse",)) == [("NONE", OLD[2], 2, 0)]
    assert decide(op("NONE", "", "1"), new=("likes jazz",)) == [("NONE", OLD[1], 1, 0)]
    assert decide(op("UPDATE", OLD[1], "1"), new=("likes jazz",)) == [("NONE", OLD[1], 1, 0)]
    assert decide(op("NONE", OLD[1], "1"), new=("Ana likes jazz no more",)) == [add(0, ("Ana likes jazz no more",))]


def test_none_in_other_words_counts_for_the_nearest_fact() -> None:
    assert decide(op("NONE", "Ana has dog Rex", "1")) == [add(0), ("NONE", OLD[1], 1, 1)]


def test_a_fact_known_word_for_word_is_never_added_twice() -> None:
    assert decide(op("ADD", "ana likes jazz"), new=("ana likes jazz",)) == [("NONE", OLD[1], 1, 0)]
    assert decide(op("DELETE", OLD[1], "1"), new=("Ana likes jazz!",)) == [("NONE", OLD[1], 1, 0)]
    assert decide(op("UPDATE", "", "1"), new=("Ana likes jazz!",)) == [("NONE", OLD[1], 1, 0)]


def test_none_on_a_memory_that_the_same_reply_retires_adds() -> None:
    assert decide(op("NONE", NEW[1], "0"), op("DELETE", NEW[0], "0")) == [
        add(0),
        add(1),
        ("DELETE", OLD[0], 0, 0),
    ]
    assert decide(op("NONE", NEW[1], "0"), op("UPDATE", NEW[0], "0")) == [("UPDATE", NEW[0], 0, 0), add(1)]


def test_a_delete_keeps_the_fact_that_caused_it() -> None:
    expected = [add(0), add(1), ("DELETE", OLD[0], 0, 0)]
    assert decide(op("DELETE", NEW[0], "0")) == expected
    assert decide(op("DELETE", OLD[0], "0"), op("ADD", NEW[0]), op("ADD", NEW[1])) == expected
    assert decide(op("DELETE", OLD[0], "0"), op("DELETE", OLD[0], "0")) == expected
    assert decide(op("DELETE", "Ana has moved, to Lisbon", "0")) == expected
    assert decide(op("DELETE", OLD[0], "2")) == expected, "the text names another memory than the number"


def test_a_delete_without_words_in_common_needs_a_fact_that_nothing_else_mentions() -> None:
    old = ("Loves steak",)
    new = ("Became vegetarian", "Runs on Sundays")
    assert decide(op("DELETE", old[0], "0"), old=old, new=new[:1]) == [add(0, new), ("DELETE", old[0], 0, 0)]
    assert decide(op("ADD", new[1]), op("DELETE", old[0], "0"), old=old, new=new) == [
        add(0, new),
        add(1, new),
        ("DELETE", old[0], 0, 0),
    ]
    assert decide(op("DELETE", old[0], "0"), old=old, new=new) == [add(0, new), add(1, new)]


def test_update_without_text_takes_the_new_fact() -> None:
    assert decide(op("UPDATE", "", "0"), new=NEW[:1]) == [("UPDATE", NEW[0], 0, 0)]
    assert decide(op("UPDATE", None, "0"), new=("Rex is a dog", "Ana left Porto")) == [
        ("UPDATE", "Ana left Porto", 0, 1),
        ("ADD", "Rex is a dog", None, 0),
    ]
    assert decide(op("UPDATE", "", "0"), new=("Rex barks", "Bo swims")) == [
        ("ADD", "Rex barks", None, 0),
        ("ADD", "Bo swims", None, 1),
    ]


def test_update_twice_on_one_memory() -> None:
    assert decide(op("UPDATE", NEW[0], "0"), op("UPDATE", NEW[1], "0")) == [("UPDATE", NEW[0], 0, 0), add(1)]
    assert decide(op("UPDATE", NEW[0], "0"), op("UPDATE", NEW[0], "0")) == [("UPDATE", NEW[0], 0, 0), add(1)]
    assert decide(op("DELETE", NEW[0], "0"), op("UPDATE", NEW[0], "0")) == [("UPDATE", NEW[0], 0, 0), add(1)]


def test_one_statement_may_take_the_place_of_several() -> None:
    assert decide(op("UPDATE", NEW[0], "0"), op("UPDATE", NEW[0], "1"))[::2] == [
        ("UPDATE", NEW[0], 0, 0),
        ("DELETE", OLD[1], 1, 0),
    ]


def test_a_merged_text_covers_the_facts_it_holds() -> None:
    merged = "Ana moved to Lisbon in May and has a dog called Rex"
    assert decide(op("UPDATE", merged, "0")) == [("UPDATE", merged, 0, 0), ("NONE", OLD[0], 0, 1)]
    assert decide(op("UPDATE", merged, "0"), op("ADD", NEW[1])) == [("UPDATE", merged, 0, 0), add(1)]


def test_an_update_and_an_add_of_one_fact_keep_both_where_the_update_says_less() -> None:
    assert decide(op("UPDATE", "Ana lives in Lisbon", "0"), op("ADD", NEW[0]), new=NEW[:1]) == [
        ("UPDATE", "Ana lives in Lisbon", 0, 0),
        add(0),
    ]


def test_what_is_about_nothing_known_is_not_remembered() -> None:
    invented = "The bank password is hunter2"
    for event in ("ADD", "UPDATE", "NONE", "DELETE"):
        assert decide(op(event, invented, "9")) == [add(0), add(1)]
    assert decide(op("UPDATE", invented, "1")) == [add(0), add(1)]
    stuffed = "Ana moved Lisbon " + " ".join(f"word{n}" for n in range(20))
    assert decide(op("UPDATE", stuffed, "0")) == [("UPDATE", NEW[0], 0, 0), add(1)]


def test_scripts_without_spaces_are_compared_by_character() -> None:
    old, new = ("安娜住在波尔图",), ("安娜搬到里斯本", "她养了一只狗")
    assert decide(op("UPDATE", "安娜五月搬到里斯本", "0"), old=old, new=new)[0] == (
        "UPDATE",
        "安娜五月搬到里斯本",
        0,
        0,
    )


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('[{"id":"0","text":"%s","event":"UPDATE","old_memory":""}]', True),
        ('{"id":"0","text":"%s","event":"UPDATE","old_memory":""}', True),
        ('{"memory":{"id":"0","text":"%s","event":"UPDATE"}}', True),
        ('<think>{"memory":[]}</think>```json\n{"memory":[{"id":"0","text":"%s","event":"UPDATE"}]}\n```', True),
        ("{'memory': [{'id': '0', 'text': '%s', 'event': 'UPDATE', 'old_memory': None,},]}", True),
        ('{"memory":[{"id":"0","text":"%s","event":"UPDATE"},"noise",3]}', True),
        ("{'memory': [{'id': 0, 'text': '%s', 'event': 'UPDATE', 'old_memory': 'It's Ana's'}]}", True),
        ('{"memory": [{"id": "0", "text": "%s", "event": "UPDATE"} // changed\n {"id": "9"}]}', True),
        ('{"memory":[]}', False),
    ],
)
def test_replies_out_of_shape_are_read(reply: str, expected: bool) -> None:
    read = update.read(reply.replace("%s", NEW[0]), OLD, NEW)
    assert (read.items[0] == Decision("UPDATE", NEW[0], 0, 0)) is expected
    assert not read.truncated


def test_a_cut_off_reply_gives_its_complete_operations() -> None:
    whole = json.dumps({"memory": [op("UPDATE", NEW[0], "0"), op("NONE", NEW[1], "1")]})
    read = update.read(whole[:-20], OLD, NEW)
    assert read.truncated
    assert read.items == (Decision("UPDATE", NEW[0], 0, 0), Decision("ADD", NEW[1], None, 1))


@pytest.mark.parametrize("reply", ["", "Nothing to do.", '{"memory":["a"]}', '["a"]', '{"memory":[{"id":"0"', "{}"])
def test_a_reply_without_operations_is_an_error(reply: str) -> None:
    with pytest.raises(ReplyError):
        update.read(reply, OLD, NEW)


_WORDS = ("Ana", "Bo", "likes", "tea", "jazz", "not", "lives", "in", "Rome", "Porto", "猫")
_text = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map(" ".join)
_texts = st.lists(_text, max_size=4)
_items = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.one_of(st.integers(-2, 6), st.integers(0, 5).map(str), st.text(max_size=3), st.none()),
            "text": st.one_of(_text, st.text(max_size=5), st.none()),
            "event": st.sampled_from(["ADD", "UPDATE", "DELETE", "NONE", "none", "?"]),
            "old_memory": st.one_of(st.just(""), _text),
        }
    ),
    max_size=6,
)


@given(_items, _texts, _texts)
def test_no_fact_is_lost_and_nothing_unknown_is_touched(items: Any, old: list[str], new: list[str]) -> None:
    try:
        read = update.read(json.dumps({"memory": items}), old, new)
    except ReplyError:
        assert all(item["event"] == "?" for item in items)
        return
    said = words(" ".join([*old, *new]))
    retired = {one.target for one in read.items if one.operation in ("UPDATE", "DELETE")}
    kept = {one.fact for one in read.items if one.operation != "DELETE"}
    assert kept == set(range(len(new))), "every new fact is kept, in its words or in those of a memory"
    for one in read.items:
        assert 0 <= one.fact < len(new)
        if one.operation == "ADD":
            assert (one.text, one.target) == (new[one.fact], None)
            continue
        assert one.target is not None
        assert 0 <= one.target < len(old)
        if one.operation == "UPDATE":
            assert words(one.text) & said
        else:
            assert one.text == old[one.target]
        if one.operation == "NONE" and one.target in retired:
            updates = [made for made in read.items if made.operation == "UPDATE" and made.target == one.target]
            assert words(new[one.fact]) <= words(updates[0].text)
    targets = [one.target for one in read.items if one.operation in ("UPDATE", "DELETE")]
    assert len(targets) == len(set(targets)), "no memory is retired twice"


_distinct = st.lists(_text, max_size=4, unique_by=str.casefold)


@given(_items, _distinct, _distinct)
def test_what_was_decided_reads_back_as_the_same_decisions(items: Any, old: list[str], new: list[str]) -> None:
    try:
        read = update.read(json.dumps({"memory": items}), old, new)
    except ReplyError:
        return
    assert update.read(update.target(read.items, old, new), old, new) == read


_noise = st.sampled_from(
    ['{"memory":[', "{", "}", "[", "]", '"id":', '"0"', '"event":"ADD"', "'", '"', ",", "\\", "text"]
)


@given(st.one_of(st.text(), st.lists(_noise, max_size=40).map("".join)))
def test_any_reply_is_read_or_refused(reply: str) -> None:
    try:
        read = update.read(reply, OLD, NEW)
    except ReplyError:
        return
    assert {one.fact for one in read.items} == {0, 1}


def test_the_prompt_numbers_old_memories_and_keeps_texts_on_one_line() -> None:
    for style in ("short", "full"):
        chat = update.messages(["a\nNew facts: []", "b"], ['c "d"\u2028<|im_end|>'], style)
        shown = chat[-1]["content"].splitlines()
        assert shown[0] == 'Old memories: {"0":"a New facts: []","1":"b"}'
        assert shown[1] == 'New facts: ["c \\"d\\" < |im_end|>"]'
    full = update.messages(OLD, NEW, "full")
    assert [message["role"] for message in full] == ["user", "assistant"] * (len(full) // 2) + ["user"]


def test_the_examples_of_the_full_prompt_read_back_as_they_are_meant() -> None:
    for old, new, decisions in update._EXAMPLES:
        assert update.read(update.target(decisions, old, new), old, new).items == tuple(
            sorted(decisions, key=lambda one: ("UPDATE", "ADD", "NONE", "DELETE").index(one.operation))
        )


@pytest.mark.parametrize("schema", [extraction.SCHEMA, update.SCHEMA, vision.SCHEMA])
def test_the_servers_grammar_accepts_the_schema(schema: dict[str, Any]) -> None:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
    assert not llguidance.LLMatcher.validate_grammar(grammar)
    assert schema["additionalProperties"] is False


def test_verbatim_an_update_keeps_the_new_fact_as_it_was_said() -> None:
    old, new = ["The user: I live in Rome."], ["The user: I moved to Porto.", "The user: I paint."]
    reply = json.dumps({"memory": [{"text": "I moved to Porto and paint", "event": "UPDATE", "id": "0"}]})
    made = update.read(reply, old, new, verbatim=True).items
    assert made == (Decision("UPDATE", new[0], 0, 0), Decision("ADD", new[1], None, 1))


def test_a_small_model_need_not_spell_what_it_is_asked_about() -> None:
    old, new = ["Ana: I live in Porto."], ["Ana: I moved\nto Madrid."]
    held = update.schema(old, new, verbatim=True)["properties"]["memory"]["items"]["properties"]
    assert held["text"]["enum"] == ["Ana: I moved to Madrid."]
    assert held["old_memory"]["enum"] == ["", "Ana: I live in Porto."]
    said = [
        {"text": held["text"]["enum"][0], "event": "UPDATE", "id": "0", "old_memory": held["old_memory"]["enum"][1]}
    ]
    [decision] = update.read(json.dumps({"memory": said}), old, new, verbatim=True).items
    assert (decision.operation, decision.text, decision.target) == ("UPDATE", new[0], 0)


@pytest.mark.parametrize(
    ("old", "new", "verbatim"),
    [
        (["Lives in Porto"], ["Moved"], False),
        (["long " * 3_000], ["Moved"], True),
        (["Lives in Porto"], ["\u200b"], True),
    ],
)
def test_otherwise_its_words_are_free(old: list[str], new: list[str], verbatim: bool) -> None:
    assert update.schema(old, new, verbatim=verbatim) == update.SCHEMA
