"""The `memlora` command. Installed with the extra `cli` (typer, rich)."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `memlora` script."""
    try:
        from .app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f'memlora needs the package {error.name}: pip install "memlora-plugins[cli]"')
    app()
