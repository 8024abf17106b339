"""The seam between the flows and the place where facts and turns live.

Every method that touches data is a *flow* (see `flows.effects`): a store is written once and serves sync and async
callers alike. A store that is purely in process may return without yielding.
The scope filter is applied in here, never by callers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..flows.effects import Flow
from ..types import Fact, Hit, Kind, Operation, Scope, Turn

if TYPE_CHECKING:
    from ..embedding import Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement:
    """Retire fact `id` if it is still current at `version`."""

    id: str
    version: int
    retired_by: Operation
    retired_at: datetime
    valid_to: datetime | None = None
    superseded_by: str | None = None


@dataclass(frozen=True, slots=True)
class NewSources:
    """Add message ids to the provenance of fact `id` if it is still at `version`."""

    id: str
    version: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit does, all of it or nothing.

    `add` are new fact versions with their vectors (a fact id that exists already is left as it is); `done` are turn
    ids that must still be pending and are pending no more.
    """

    add: tuple[tuple[Fact, Vector | None], ...] = ()
    retire: tuple[Retirement, ...] = ()
    sources: tuple[NewSources, ...] = ()
    done: tuple[str, ...] = ()


@runtime_checkable
class FactStore(Protocol):
    """Where facts and turns live. All ids are UUID strings.

    Raises (every flow):
        StoreUnavailableError: the server cannot be reached; ClosedError; ForkedError.
    """

    def open(self, embedder: str, dimension: int) -> Flow[None]:
        """Create or check the collection. Called once before anything else; repeated calls are harmless.

        Raises:
            EmbedderMismatchError: it was made with another embedder or dimension.
        """

    def put_turns(self, turns: Sequence[tuple[Turn, Vector | None]]) -> Flow[list[Turn]]:
        """Write the turns whose id is unknown, durably, in one batch; returns just those."""

    def commit(self, scope: Scope, change: Change) -> Flow[None]:
        """Apply `change`. Also leaves one fact where two current ones would say exactly the same.

        Raises:
            ConflictError: a version moved, a turn is pending no more, or a turn is gone. Nothing was changed.
        """

    def search(
        self,
        scope: Scope,
        text: str,
        vector: Vector | None,
        *,
        limit: int,
        kinds: Sequence[Kind] = ("fact", "turn"),
        without: Collection[str] = (),
    ) -> Flow[list[Hit]]:
        """Hybrid search, best first, which leaves out the ids in `without`. Without `vector` (the embedder failed) by
        words alone.
        """

    def neighbours(
        self, scope: Scope, vectors: Sequence[Vector], *, limit: int
    ) -> Flow[list[list[tuple[Fact, float]]]]:
        """For each vector, the nearest current facts with their cosine, nearest first."""

    def same_text(self, scope: Scope, texts: Sequence[str]) -> Flow[list[Fact | None]]:
        """For each text, the current fact that says exactly that (`types.normalise`), or None."""

    def facts(self, scope: Scope, *, retired: bool = False, limit: int | None = None) -> Flow[list[Fact]]:
        """Facts by `valid_from`, oldest first; with `retired` also those no longer current."""

    def turns(
        self,
        scope: Scope,
        *,
        ids: Sequence[str] | None = None,
        pending: bool | None = None,
        before: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Flow[list[Turn]]:
        """Turns by `position`, oldest first; `before` keeps smaller positions only."""

    def unembedded(self) -> Flow[list[Turn]]:
        """Every scope's turns that were kept while the embedder failed. For `flush` only."""

    def embed_turns(self, turns: Sequence[tuple[Turn, Vector]]) -> Flow[None]:
        """Give turns that have none their vector. Turns that are gone meanwhile stay gone."""

    def pending(self) -> Flow[list[Turn]]:
        """Every scope's turns still to distil, oldest first. For the background worker only."""

    def get(self, scope: Scope, id: str) -> Flow[Fact | Turn | None]:
        """The fact (current or retired) or turn with this id in this scope."""

    def superseded(self, scope: Scope, ids: Sequence[str]) -> Flow[list[Fact]]:
        """The facts whose `superseded_by` is one of `ids`: one step back in history."""

    def count(self, scope: Scope) -> Flow[dict[str, int]]:
        """`{"facts": current, "retired": …, "turns": …, "pending": …}`."""

    def restore(
        self,
        facts: Sequence[tuple[Fact, Vector | None]],
        turns: Sequence[tuple[Turn, Vector | None]],
    ) -> Flow[int]:
        """Write exported facts and turns as they are (unknown ids only); returns how many were new."""

    def forget(self, scope: Scope, ids: Sequence[str]) -> Flow[list[Turn]]:
        """Leave these turns, and those that these facts came from, out of search and distilling from now on; returns
        them. Ids that are not in scope change nothing. The facts themselves stay: they are retired by `commit`.
        """

    def erase(self, scope: Scope) -> Flow[int]:
        """Physically remove facts, turns, history and pending work; returns how many points went.

        With a session: its turns, and the facts that have no source outside of it.
        """

    def flush(self) -> Flow[None]:
        """Make everything survive a power loss."""

    def describe(self) -> str:
        """One line for people: which store and where. No secrets."""

    def close(self) -> None:
        """Release the folder or the connections. Idempotent."""

    async def aclose(self) -> None: ...


Payload = dict[str, Any]
