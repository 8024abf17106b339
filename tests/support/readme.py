"""What every README promises: that its code runs, and that its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(text: str) -> dict[str, str]:
    """The Python of a README by the name in the comment above it.

    Raises:
        AssertionError: a block without a name, or two with one.
    """
    found: dict[str, str] = dict(re.findall(r"<!-- test: ([\w ]+) -->\n```python\n(.*?)```", text, flags=re.S))
    assert text.count("```python") == len(found)
    return found


def broken_links(text: str, folder: Path) -> list[str]:
    """The links, to files and to headings of its own, that lead nowhere."""
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, flags=re.M)
    }
    broken = []
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        if not ((folder / path).exists() if path else anchor in headings):
            broken.append(link)
    return broken
