"""A memory as settings, for objects that are serialized with what they work on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from memlora_plugins import Memory

_reopened: dict[tuple[int, str], Memory] = {}
_lock = threading.Lock()


def reopened(settings: Mapping[str, Any]) -> Memory:
    """The memory that `Memory.portable` described, open. One per process for equal settings: workflows are restored
    with every request, and each restoring would load the models again. It stays open until somebody closes it.

    Raises:
        SettingsError, StoreLockedError, EmbedderMismatchError…: as `Memory.open`.
    """
    key = os.getpid(), json.dumps(settings, sort_keys=True)
    with _lock:
        memory = _reopened.get(key)
        if memory is None or memory.closed:
            memory = _reopened[key] = Memory.open(**settings)
        return memory
