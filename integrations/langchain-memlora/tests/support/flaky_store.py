"""The people of these tests, and a store that can be out of reach."""

from __future__ import annotations

from typing import Any

from memlora_plugins import EdgeFactStore, Scope, StoreUnavailableError

ANA, BOB = Scope("ana"), Scope("bob")


class FlakyStore(EdgeFactStore):
    """The embedded store, which is out of reach while `down`: what a server can do, and a folder cannot."""

    down = False

    def search(self, *args: Any, **kwargs: Any) -> Any:
        self._check_up()
        return super().search(*args, **kwargs)

    def put_turns(self, *args: Any, **kwargs: Any) -> Any:
        self._check_up()
        return super().put_turns(*args, **kwargs)

    def _check_up(self) -> None:
        if self.down:
            raise StoreUnavailableError("The Qdrant server does not answer.")
