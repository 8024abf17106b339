"""A stand-in for a model: replies written by hand for one conversation. It understands nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from ..errors import BackendRequestError
from ..serving.base import Completion, Expert, PromptStyle, Request
from .demo_conversation import Script


class ScriptedBackend:
    """Replays `script`: it looks for a known line, fact or question in the prompt and says what is written there.

    Raises (every completing method):
        BackendRequestError: the script has no reply to this prompt.
    """

    def __init__(self, script: Script) -> None:
        self._script = script

    def prompt_style(self, expert: Expert) -> PromptStyle:
        return "short"

    def complete(self, request: Request) -> Completion:
        prompt = "\n".join(_text(message["content"]) for message in request.messages)
        match request.expert:
            case "extraction":
                reply = self._extract(prompt)
            case "update":
                reply = self._update(prompt)
            case "generation":
                reply = self._generate(prompt)
            case _:
                reply = None
        if reply is None:
            raise BackendRequestError(
                f"The script has no reply of the {request.expert} expert to this; pass --base-url and --model to ask "
                "a real one.",
                status=400,
            )
        return Completion(reply, model="script")

    async def acomplete(self, request: Request) -> Completion:
        return self.complete(request)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        completion = self.complete(request)
        yield completion.text
        yield completion

    async def astream(self, request: Request) -> AsyncIterator[str | Completion]:
        for piece in self.stream(request):
            yield piece

    def describe(self) -> str:
        return "a script of prepared replies, no model"

    def close(self) -> None:
        """Nothing to release."""

    async def aclose(self) -> None:
        """Nothing to release."""

    def _extract(self, prompt: str) -> str | None:
        for session in self._script.sessions:
            for line in session.lines:
                if line.text in prompt:
                    return _compact({"facts": list(line.facts)})
        return None

    def _update(self, prompt: str) -> str | None:
        """Old memories come first in the prompt, numbered from 0 in the order they stand there; new facts follow."""
        lines = [line for session in self._script.sessions for line in session.lines]
        mentioned = _in_order({fact for line in lines for fact in line.facts}, prompt)
        if not mentioned:
            return None
        latest = next(line for line in lines if mentioned[-1] in line.facts)
        new = [fact for fact in mentioned if fact in latest.facts]
        old = [fact for fact in mentioned if fact not in latest.facts]
        items: list[dict[str, Any]] = []
        for fact in new:
            decision = next((d for d in self._script.decisions if d.fact == fact and d.old in old), None)
            if decision is None:
                items.append({"id": str(len(old) + len(items)), "text": fact, "event": "ADD", "old_memory": ""})
                continue
            number = str(old.index(decision.old))
            items.append({"id": number, "text": fact, "event": decision.operation, "old_memory": decision.old})
        return _compact({"memory": items})

    def _generate(self, prompt: str) -> str | None:
        return next((question.answer for question in self._script.questions if question.text in prompt), None)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content)


def _in_order(texts: set[str], prompt: str) -> Sequence[str]:
    return sorted((text for text in texts if text in prompt), key=prompt.index)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
