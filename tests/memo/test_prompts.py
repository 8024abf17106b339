"""The prompts of the stages: those that are replaced are asked, and one that cannot work is refused at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlora_plugins import InvalidInputError
from memlora_plugins.memo.answers import MemoryAnswer
from memlora_plugins.memo.prompts import PLACES, Prompts, evidence, filled
from memlora_plugins.memo.protocol import Protocol

STAGES = [field.name for field in fields(Prompts)]
FULL = {stage: " ".join(f"{{{name}}}" for name in names) for stage, names in PLACES.items()}
REPLIES = {
    "grounding": {"sub_questions": [{"question": "Who founded it?"}]},
    "entity": {"decision": "exhaust", "candidate_entities": [{"name": "Ada", "rank": 1}]},
    "answer": {"decision": "answer"},
    "unstructured": {"decision": "answer"},
    "synthesis": {"final_answer": "Porto", "justification": ""},
}


class Executive:
    """Replies to prompts that begin with the name of their stage."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def complete(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> str:
        self.prompts.append(messages[0]["content"])
        return json.dumps(REPLIES[self.prompts[-1].split(":")[0]])

    async def acomplete(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> str:
        return self.complete(messages)


class Memory:
    """Knows who it was."""

    def ask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        return [MemoryAnswer(question, "Ada Lume {left}.") for question in questions]

    async def aask(self, questions: Sequence[str], *, temperature: float = 0.0) -> list[MemoryAnswer]:
        return self.ask(questions)


def test_the_prompts_of_ones_own_are_asked() -> None:
    prompts = Prompts(**{stage: f'{stage}: {{"a": {{}}}} {text}' for stage, text in FULL.items()})
    asked = []
    for method in ("structured", "unstructured"):
        executive = Executive()
        memory: Any = Memory()
        protocol = Protocol(executive=executive, memory_model=memory, method=method, prompts=prompts)  # type: ignore[arg-type]
        assert protocol.run("Where {evidence}?").answer == "Porto"
        asked += executive.prompts
    assert [prompt.split(":")[0] for prompt in asked] == [
        *("grounding", "entity", "answer", "synthesis"),
        *("unstructured", "synthesis"),
    ]
    for prompt in asked:
        assert '{"a": {}}' in prompt
        assert "Memory model" in prompt
        assert "Where {evidence}?" in prompt
    assert "- Who founded it? -> Ada Lume {left}." in asked[3]  # what is said is never a place
    assert asked[2].endswith("a guess that was not confirmed: Ada.  8")


def test_no_prompt_of_ours_has_braces_left() -> None:
    for stage in STAGES:
        [message] = filled(getattr(Prompts(), stage), "Where?", **dict.fromkeys(PLACES[stage][2:], "x"))
        assert message["role"] == "user"
        assert "{memory}" not in message["content"]
        assert "{{" not in message["content"]
    assert '{"sub_questions": [{"question": "…"}]}' in filled(Prompts().grounding, "Where?")[0]["content"]


@pytest.mark.parametrize(
    ("stage", "prompt", "said"),
    [
        ("grounding", "Take it apart.", r"Prompts.grounding has no \{question\}"),
        ("entity", "{memory}", r"Prompts.entity has no \{question\}, \{evidence\}: say where"),
        ("answer", "{question} {evidence}", r"Prompts.answer has no \{entity\}"),
        ("synthesis", "{question} { evidence }", r"Prompts.synthesis has no \{evidence\}"),
        ("unstructured", "{evidence} {{question}", None),
        ("grounding", "{question} {evidence} {left}", r"\{evidence\}, \{left\}, .* can have \{memory\}, \{question\}"),
        ("synthesis", 7, "must be text, got int"),
    ],
)
def test_a_prompt_that_cannot_work_is_refused(stage: str, prompt: Any, said: str | None) -> None:
    if said is None:
        assert getattr(Prompts(**{stage: prompt}), stage) == prompt
        return
    with pytest.raises(InvalidInputError, match=said):
        Prompts(**{stage: prompt})


@given(st.lists(st.sampled_from(["{question}", "{evidence}", "{left}", "{x}", "{", "}", "{}", "a"]), max_size=9))
def test_only_known_places_are_filled(pieces: list[str]) -> None:
    prompt = "{question}{evidence}" + "".join(pieces)
    assert Prompts(unstructured=prompt).unstructured == prompt
    said = filled(prompt, "Q", evidence="E", left=1)[0]["content"]
    assert said == prompt.replace("{question}", "Q").replace("{evidence}", "E").replace("{left}", "1")


def test_evidence_is_a_line_each() -> None:
    assert evidence([]) == "(nothing yet)"
    assert evidence([("Who?", "Ada\n- Bo -> Cy")]) == "- Who? -> Ada - Bo -> Cy"
