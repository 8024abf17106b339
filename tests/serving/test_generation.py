"""Text as it comes, and schemas as grammars."""

from __future__ import annotations

from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_model import TinyModel
from transformers import AutoTokenizer

from memlora_plugins.errors import BackendRequestError, BackendUnavailableError
from memlora_plugins.serving.generation import Row, TextStream
from memlora_plugins.serving.grammar import Grammars, allowed_tokens

STRING = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: TinyModel) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model.path)


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> Grammars:
    return Grammars(tokenizer, len(tokenizer) + 50, [tokenizer.eos_token_id])


def pieces(tokenizer: Any, tokens: list[int]) -> list[str]:
    stream = TextStream(lambda some: str(tokenizer.decode(some, skip_special_tokens=True)))
    return [*(stream.push(token) for token in tokens), stream.rest()]


@given(text=st.text())
@example(text="\uf900")
def test_a_stream_gives_whole_characters(tokenizer: Any, text: str) -> None:
    text = normalize("NFC", text)  # as this tokenizer does before it encodes
    told = pieces(tokenizer, tokenizer.encode(text))
    assert "".join(told) == text.rstrip("\ufffd")
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in told)


@given(places=st.lists(st.integers(0, 10_000), max_size=40))
@settings(max_examples=300)
def test_a_stream_of_any_tokens_gives_what_decoding_them_together_gives(tokenizer: Any, places: list[int]) -> None:
    tokens = [place % len(tokenizer) for place in places]
    assert "".join(pieces(tokenizer, tokens)) == tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_allowed_tokens_make_compact_json(tokenizer: Any, grammars: Grammars, data: st.DataObject) -> None:
    matcher = grammars.matcher(STRING)
    row = Row([0], "", 20, stops=[tokenizer.eos_token_id], matcher=matcher)
    while not row.done:
        allowed = allowed_tokens(matcher, len(tokenizer) + 50).nonzero()[0]
        row.accept(int(allowed[data.draw(st.integers(0, 10_000)) % len(allowed)]))
    assert row.error is None
    text = tokenizer.decode(row.said)
    assert text.startswith('{"a":"'[: len(text)])
    assert row.finish == ("stop" if text.endswith('"}') and len(text) > 6 else row.finish)


def test_a_compiled_schema_begins_anew_each_time(tokenizer: Any, grammars: Grammars) -> None:
    for _ in range(2):
        matcher = grammars.matcher(STRING)
        assert matcher.consume_tokens(tokenizer.encode('{"a":"x"}'))
        assert matcher.is_stopped()
    assert not grammars.matcher(STRING).consume_tokens(tokenizer.encode('{ "a"'))


def test_many_schemas_are_not_kept_forever(grammars: Grammars) -> None:
    for number in range(70):
        grammars.matcher({"const": number})
    assert len(grammars._compiled) == 64


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/none"}, {"const": float("nan")}, 5])
def test_schemas_that_cannot_be_used(grammars: Grammars, schema: Any) -> None:
    with pytest.raises(BackendRequestError, match="schema"):
        grammars.matcher(schema)


def test_a_grammar_that_gives_up_fails_its_row(tokenizer: Any, grammars: Grammars) -> None:
    row = Row([0], "", 20, stops=[tokenizer.eos_token_id], matcher=grammars.matcher(STRING))
    row.accept(tokenizer.encode("x")[0])
    assert isinstance(row.error, BackendUnavailableError)
    assert row.done
