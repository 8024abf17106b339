from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins.errors import ReplyError
from memlora_plugins.experts import vision
from memlora_plugins.experts.vision import VisionAnswer
from memlora_plugins.types import ImagePart

IMAGE = ImagePart("data:image/png;base64,AAAA")


@pytest.mark.parametrize("style", ["short", "full"])
def test_image_and_question_go_in_one_message(style: str) -> None:
    (message,) = vision.messages("How many\ncups?", IMAGE, style)
    image, text = message["content"]
    assert image == {"type": "image_url", "image_url": {"url": IMAGE.url}}
    assert text["type"] == "text"
    assert "Question: How many cups?" in text["text"].splitlines()


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ('{"answer":"Red","reason":"The ball is red."}', VisionAnswer("Red", "The ball is red.")),
        ('<think>{"answer":"Blue"}</think>```json\n{"answer": "Red."}\n```', VisionAnswer("Red")),
        ("{'answer': 'Red', 'reason': 'It\\'s red',}", VisionAnswer("Red", "It's red")),
        ('{"result":{"Answer":3,"reason":null}}', VisionAnswer("3")),
        ('{"answer":true,"reason":"a\\nb"}', VisionAnswer("true", "a b")),
        ('{"answer":"Red","reason":"It says <think> on it"}', VisionAnswer("Red", "It says <think> on it")),
        ("Red.", VisionAnswer("Red")),
    ],
)
def test_answers_are_read(reply: str, answer: VisionAnswer) -> None:
    assert vision.read(reply) == answer


def test_what_was_written_reads_back() -> None:
    answer = VisionAnswer("Tür", 'Eine "Tür" steht offen.')
    assert vision.read(vision.target(answer)) == answer


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I see a red ball.",
        '{"answer":""}',
        '{"answer":[1]}',
        '{"reason":"x"}',
        "{'x': 'answer',}",
        '{"answer":"Re',
        '<think>Perhaps {"answer":"Red"}',
        "{" * 1000,
        "{'answer':" * 60 + "1" + "}" * 60,
    ],
)
def test_a_reply_without_an_answer_is_an_error(reply: str) -> None:
    with pytest.raises(ReplyError) as caught:
        vision.read(reply)
    assert caught.value.reply == reply


@given(st.one_of(st.text(), st.lists(st.sampled_from([*"{}[]\"':,", "answer", '{"answer":'])).map("".join)))
def test_any_reply_is_read_or_refused(reply: str) -> None:
    try:
        assert vision.read(reply).answer
    except ReplyError:
        return
