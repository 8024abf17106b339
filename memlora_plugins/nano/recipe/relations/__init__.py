"""Everything people tell in nano's training text, by domain."""

from __future__ import annotations

from ..pools import Pools
from ..relation import Relation
from . import dated, leisure, life, people

_MODULES = (people, leisure, life, dated)

RELATIONS: tuple[Relation, ...] = tuple(relation for module in _MODULES for relation in module.RELATIONS)


def pools() -> Pools:
    """The pools of all domains.

    Raises:
        ValueError: a pool or a relation exists twice, or a slot has no pool.
    """
    merged: dict[str, tuple[str, ...]] = {}
    for module in _MODULES:
        if twice := merged.keys() & module.POOLS.keys():
            raise ValueError(f"Pools of two domains share a name: {sorted(twice)}.")
        merged |= module.POOLS
    made = Pools(merged)
    wanted = {slot.rstrip("0123456789") for relation in RELATIONS for slot in relation.slots} - {"when"}
    if missing := wanted - made.names:
        raise ValueError(f"Slots without a pool: {sorted(missing)}.")
    if len({relation.name for relation in RELATIONS}) < len(RELATIONS):
        raise ValueError("Two relations share a name.")
    return made
