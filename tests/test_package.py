"""What `import memlora_plugins` gives."""

from __future__ import annotations

import subprocess
import sys

import memlora_plugins
from memlora_plugins import errors


def test_every_public_name_is_there() -> None:
    assert sorted(memlora_plugins.__all__) == dir(memlora_plugins)
    for name in memlora_plugins.__all__:
        assert getattr(memlora_plugins, name) is not None
    assert not hasattr(memlora_plugins, "nope")


def test_every_error_that_can_be_caught_is_public() -> None:
    tree = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    assert tree <= set(memlora_plugins.__all__)
    drawn = errors.__doc__ or ""
    assert [name for name in tree if name not in drawn] == []


def test_importing_warns_of_nothing_and_needs_no_extra() -> None:
    extras = ["torch", "transformers", "peft", "sentence_transformers", "llguidance", "typer", "rich"]
    code = (
        f"import sys\nfor name in {extras}: sys.modules[name] = None\n"
        "import memlora_plugins\nfor name in memlora_plugins.__all__: getattr(memlora_plugins, name)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
