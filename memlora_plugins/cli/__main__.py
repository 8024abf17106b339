"""`python -m memlora_plugins.cli` is `memlora`, for launchers that start modules."""

from __future__ import annotations

from . import main

main()
