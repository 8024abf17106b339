"""Fake vision models on loopback: they decode the image that they are sent and tell the colour that fills it.

No real one runs in the tests; what these check is that the right image arrives, and what becomes of replies.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from fake_server import FakeModelServer
from PIL import Image

from memlora_plugins.evaluation.vqa.questions import ABOUT, TYPES

COLOURS = {
    "red": (220, 20, 20),
    "green": (20, 160, 40),
    "blue": (30, 40, 220),
    "yellow": (240, 220, 30),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}

Say = Callable[[dict[str, Any]], str]


def draw(file: Path, colour: str, size: tuple[int, int] = (32, 24), **how: Any) -> Path:
    """An image of one colour; `how` it is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(file, **how)
    return file


def sent(body: dict[str, Any]) -> Image.Image:
    """The image of a chat request."""
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    kind, _, content = url.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert kind == f"data:image/{str(image.format).lower()}"
    return image


def colour_of(image: Image.Image) -> str:
    """The name of the colour in its middle."""
    seen = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(seen, tuple)
    return min(
        COLOURS, key=lambda name: sum((one - other) ** 2 for one, other in zip(COLOURS[name], seen, strict=True))
    )


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[1]["text"]


def type_of(body: dict[str, Any]) -> str:
    """The type of question that the maker was asked for, or that a student was asked."""
    text = text_of(body)
    asked = next((type for type in TYPES if f"one hard question about {ABOUT[type]}." in text), None)
    return asked or next(type for type in TYPES if f"({type})" in text)


def writes(body: dict[str, Any]) -> str:
    """The maker: "Which colour is it (mood)?" and the colour of the image that it was sent."""
    colour = colour_of(sent(body))
    question = {"question": f"Which colour is it ({type_of(body)})?", "answer": colour, "reason": f"All is {colour}."}
    return f"<think>Hm.</think>```json\n{json.dumps(question)}\n```"


def sees(wrong: Collection[str] = ()) -> Say:
    """A student: the colour of the image that it was sent, but for the types that it gets `wrong`."""

    def say(body: dict[str, Any]) -> str:
        answer = "mauve" if type_of(body) in wrong else colour_of(sent(body)).title()
        return json.dumps({"answer": answer, "reason": "It looks so."})

    return say


def fake_maker(*scripts: Any) -> FakeModelServer:
    """Says `scripts`, one a request, the last one again and again; by default what `writes` does."""
    server = FakeModelServer(model="large")
    server.reply("generation", *(scripts or (writes,)))
    return server


def fake_student(*scripts: Any) -> FakeModelServer:
    """Says `scripts` as the vision expert; by default what `sees` does."""
    server = FakeModelServer(model="small")
    server.reply("vision", *(scripts or (sees(),)))
    return server
