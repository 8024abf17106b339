"""What the fake model says: the facts that a prompt tells, in the format of the library that asked, well or badly.

It tells the libraries apart by the shape of their requests. A fact is what the person said, word for word; one that
the prompt says is known already is not told again. Nothing of the libraries' own prompts is kept here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WAYS = {
    "prose": "a friendly sentence without any JSON",
    "fenced": "the right reply inside a code fence, as plain text",
    "half": "the right reply, cut off in the middle",
    "wrong keys": "JSON with keys that nobody asked for",
    "empty": "an empty string",
    "objects": "an object where a string is asked for (a string where mem0 asks for an object)",
    "unknown id": "a change to a memory with an id that does not exist",
    "500": "HTTP status 500",
}
"""The malformed replies, by name."""


@dataclass
class Said:
    """A reply: text or tool calls (name and JSON arguments). `status` other than 200 is an error instead."""

    text: str | None = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str = "stop"
    status: int = 200
    library: str = ""


class NotUnderstoodError(Exception):
    """A prompt of no known library: the figures would mean nothing."""


def reply(body: Mapping[str, Any], way: str | None) -> Said:
    """The answer to a chat request, malformed in one of `WAYS` or not at all.

    Raises:
        NotUnderstoodError: the request is of none of the libraries.
    """
    name = ((body.get("response_format") or {}).get("json_schema") or {}).get("name")
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    messages = [(message["role"], _text(message.get("content"))) for message in body["messages"]]
    if name in ("extraction", "update"):
        said = _memlora(name, messages, way)
        said.library = "memlora"
    elif tools:
        said = _langmem(tools, messages, way)
        said.library = "langmem"
    elif "<facts>" in messages[-1][1]:
        said = _llama_index(messages, way)
        said.library = "llama-index"
    elif "## New Messages" in messages[-1][1]:
        said = _mem0(messages[-1][1], way)
        said.library = "mem0"
    else:
        raise NotUnderstoodError(f"a prompt of no known library: {messages[-1][1][:200]!r}")
    if way == "500":
        said.status = 500
    return said


def _memlora(expert: str, messages: Sequence[tuple[str, str]], way: str | None) -> Said:
    prompt = messages[-1][1]
    if expert == "extraction":
        facts = [prompt.rpartition("\n")[2].partition(": ")[2]]
        objects: Any = {"facts": [{"fact": fact} for fact in facts]}
        way = None if way == "unknown id" else way
        return _json_text({"facts": facts}, {"items": [{"note": fact} for fact in facts]}, objects, way)
    old_line, new_line = (line.partition(": ")[2] for line in prompt.split("\n")[-2:])
    old, new = json.loads(old_line), json.loads(new_line)
    known = {text: id for id, text in old.items()}
    unknown = way == "unknown id"
    decisions = [
        {
            "text": text,
            "event": "UPDATE" if unknown else "NONE" if text in known else "ADD",
            "id": "99" if unknown else known.get(text, str(len(old) + number)),
            "old_memory": "",
        }
        for number, text in enumerate(new)
    ]
    objects = {"memory": [{**decision, "text": {"fact": decision["text"]}} for decision in decisions]}
    return _json_text({"memory": decisions}, {"items": [{"note": text} for text in new]}, objects, way)


def _mem0(prompt: str, way: str | None) -> Said:
    sections = {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in prompt.split("## ")}
    said = [line[6:] for line in sections["New Messages"].splitlines() if line.startswith("user: ")]
    facts = [fact for fact in said if fact not in sections.get("Existing Memories", "")]
    linked = {"linked_memory_ids": ["99"]} if way == "unknown id" else {}
    items = [{"id": str(number), "text": fact, **linked} for number, fact in enumerate(facts)]
    return _json_text({"memory": items}, {"items": [{"note": fact} for fact in facts]}, {"memory": facts}, way)


def _json_text(right: Any, wrong_keys: Any, objects: Any, way: str | None) -> Said:
    text = json.dumps(right, ensure_ascii=False)
    match way:
        case "prose":
            return Said("Thank you, I have made a note of everything that was said.")
        case "fenced":
            return Said(f"Here you are:\n```json\n{text}\n```\nTell me if you need more.")
        case "half":
            return Said(text[: len(text) * 2 // 3], finish="length")
        case "wrong keys":
            return Said(json.dumps(wrong_keys))
        case "empty":
            return Said("")
        case "objects":
            return Said(json.dumps(objects))
    return Said(text)


def _langmem(tools: Sequence[str], messages: Sequence[tuple[str, str]], way: str | None) -> Said:
    conversation = "\n".join(text for role, text in messages if role == "user")
    known = "\n".join(text for role, text in messages if role == "system")
    facts = [fact for fact in _conversation_of_langmem(conversation) if fact not in known]
    right = [("Memory", json.dumps({"content": fact})) for fact in facts]
    text = json.dumps([{"content": fact} for fact in facts])
    match way:
        case "prose":
            return Said("Thank you, I have made a note of everything that was said.")
        case "fenced":
            return Said(f"Here you are:\n```json\n{text}\n```\nTell me if you need more.")
        case "half":
            return Said(None, [(name, args[: len(args) * 2 // 3]) for name, args in right], finish="length")
        case "wrong keys":
            return Said(None, [("Memory", json.dumps({"note": fact})) for fact in facts], finish="tool_calls")
        case "empty":
            return Said("")
        case "objects":
            return Said(None, [("Memory", json.dumps({"content": {"fact": fact}})) for fact in facts], "tool_calls")
        case "unknown id" if "PatchDoc" in tools:
            patches = [{"op": "replace", "path": "/content", "value": fact} for fact in facts]
            change = {"json_doc_id": "99", "planned_edits": "replace it", "patches": patches}
            return Said(None, [("PatchDoc", json.dumps(change))], finish="tool_calls")
    return Said(None if right else "Nothing is new.", right, finish="tool_calls" if right else "stop")


def _conversation_of_langmem(text: str) -> list[str]:
    """What the person says: the lines after each heading that names the speaker as the human one."""
    pieces = re.split(r"=+ ?(\w+) Message ?=+", text)
    spoken = dict(enumerate(zip(pieces[1::2], pieces[2::2], strict=True)))
    said = [words.strip() for speaker, words in spoken.values() if speaker == "Human"]
    return [re.split(r"\n\s*\n|</", words)[0].strip() for words in said]


def _llama_index(messages: Sequence[tuple[str, str]], way: str | None) -> Said:
    known = messages[-1][1]
    facts = [text for role, text in messages[:-1] if role == "user" and text not in known]
    right = "<facts>" + "".join(f"<fact>{fact}</fact>" for fact in facts) + "</facts>"
    match way:
        case "prose":
            return Said("Thank you, I have made a note of everything that was said.")
        case "fenced":
            return Said(f"Here you are:\n```xml\n{right}\n```\nTell me if you need more.")
        case "half":
            return Said(right[: len(right) * 2 // 3], finish="length")
        case "wrong keys":
            return Said(right.replace("fact>", "note>").replace("facts>", "notes>"))
        case "empty":
            return Said("")
        case "objects":
            return Said(json.dumps({"facts": [{"fact": fact} for fact in facts]}))
    return Said(right)


def _text(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part.get("text", "") for part in content)
