"""Errors cross process boundaries with what they carry."""

from __future__ import annotations

import pickle

import pytest

from memlora_plugins.errors import BackendRequestError, MemloraError, ReplyError, RetiredError, ServerStartError


@pytest.mark.parametrize(
    "error",
    [
        RetiredError("old", current_id="new"),
        BackendRequestError("no", status=404),
        ReplyError("what?", reply="prose"),
        ServerStartError("down", log_tail="out of memory"),
    ],
)
def test_an_error_survives_pickling(error: MemloraError) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), vars(copied)) == (type(error), str(error), vars(error))
