"""Every error this library raises on purpose, in one tree.

MemloraError
├── InvalidInputError (ValueError)        what the caller passed cannot be used as it is
│   ├── ScopeError                        no user id, or a blank one
│   ├── MessageError                      empty text, unknown role, a part that is neither text nor image
│   ├── SettingsError                     settings that contradict each other or name something unknown
│   └── DatasetError                      training data that cannot be used: unreadable, empty, or splits that overlap
├── NotFoundError (LookupError)           no such id in this scope (another user's id reads the same)
├── RetiredError                          the id names an old version; the message gives the current id
├── ConflictError                         a version moved between reading and committing, repeatedly
├── ClosedError                           used after close()
├── ForkedError                           used in a forked child; open the memory there instead
├── NotPortableError (TypeError)          a hand-built memory cannot be described by settings, so not pickled
├── MissingDependencyError (ImportError)  an optional package is missing; the message names the extra
├── StoreError                            the place where facts and turns live
│   ├── StoreLockedError                  another process holds the folder
│   ├── StoreUnavailableError             folder not writable, server not reachable
│   └── EmbedderMismatchError             the collection was made with another embedder
├── EmbeddingError                        the embedder failed or answered the wrong shape
├── BackendError                          the model that runs the experts
│   ├── BackendNotConfiguredError         no model is configured
│   ├── BackendUnavailableError           not reachable, or still failing after the retries
│   ├── BackendTimeoutError               no answer within the read timeout
│   ├── BackendRequestError               the server refused the request (4xx); retrying cannot help
│   │   └── PromptTooLongError            prompt and reply do not fit into the context window
│   ├── ServerStartError                  the vLLM server did not become healthy; carries the log's tail
│   └── AdapterError                      an adapter cannot be served
│       ├── AdapterInvalidError           its files break a rule of the server (rank, DoRA, bias, name…)
│       └── AdapterNotLoadedError         the server does not have it and it could not be reloaded
├── TrainingError                         training cannot start or go on; what was saved before is whole
└── ReplyError                            a model's reply could not be read, even after a retry
    └── UnsaidError                       facts of a reply that nobody said were left out
"""

from __future__ import annotations


class MemloraError(Exception):
    """Base of every error raised on purpose by this library."""


class InvalidInputError(MemloraError, ValueError):
    """What the caller passed cannot be used as it is."""


class ScopeError(InvalidInputError):
    """A scope without a usable user id."""


class MessageError(InvalidInputError):
    """A message that cannot be remembered: empty, of an unknown role, or with an unusable part."""


class SettingsError(InvalidInputError):
    """Settings that contradict each other or name something unknown."""


class DatasetError(InvalidInputError):
    """Training data that cannot be used: unreadable, empty, or in two splits at once."""


class TrainingError(MemloraError):
    """Training cannot start or go on. What was saved before is whole."""


class NotFoundError(MemloraError, LookupError):
    """No such id in this scope. An id of another user reads exactly the same."""


class RetiredError(MemloraError):
    """The id names a version that was replaced or deleted.

    `current_id` is the id of the version that is valid now, or None if the fact was deleted.
    """

    def __init__(self, message: str, *, current_id: str | None = None) -> None:
        super().__init__(message)
        self.current_id = current_id


class ConflictError(MemloraError):
    """A version moved between reading and committing, more often than the retries allow."""


class ClosedError(MemloraError):
    """The memory, store or server was used after `close()`."""


class ForkedError(MemloraError):
    """The object was made in another process; open a memory of your own in the child."""


class NotPortableError(MemloraError, TypeError):
    """A hand-built memory cannot be described by settings, so it cannot be serialized."""


class MissingDependencyError(MemloraError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""


class StoreError(MemloraError):
    """The place where facts and turns live failed."""


class StoreLockedError(StoreError):
    """Another process holds the folder."""


class StoreUnavailableError(StoreError):
    """The folder cannot be written, or the server cannot be reached."""


class EmbedderMismatchError(StoreError):
    """The collection was made with another embedder."""


class EmbeddingError(MemloraError):
    """The embedder failed or answered vectors of the wrong shape."""


class BackendError(MemloraError):
    """The model that runs the experts failed."""


class BackendNotConfiguredError(BackendError):
    """No model is configured."""


class BackendUnavailableError(BackendError):
    """The model server cannot be reached, or still fails after the retries."""


class BackendTimeoutError(BackendUnavailableError):
    """No answer within the read timeout."""


class BackendRequestError(BackendError):
    """The server refused the request; sending it again cannot help. `status` is the HTTP status, 0 if unknown."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class PromptTooLongError(BackendRequestError):
    """The prompt and the room that its reply may take do not fit into the model's context window."""


class ServerStartError(BackendError):
    """The vLLM server did not become healthy. `log_tail` is the end of its log."""

    def __init__(self, message: str, *, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class AdapterError(BackendError):
    """A LoRA adapter cannot be served."""


class AdapterInvalidError(AdapterError):
    """The adapter's files break a rule of the server; checked before anything is sent."""


class AdapterNotLoadedError(AdapterError):
    """The server does not have the adapter and it could not be reloaded."""


class ReplyError(MemloraError):
    """A model's reply could not be read, even after a retry. `reply` is what it said."""

    def __init__(self, message: str, *, reply: str = "") -> None:
        super().__init__(message)
        self.reply = reply


class UnsaidError(ReplyError):
    """Facts of a reply that are not in the person's words were left out. `reply` has them, a line each."""
