"""JSON schemas as grammars for a model in process: the ones the vLLM server uses, compact JSON without spaces."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BackendRequestError

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

_KEPT = 64


class Grammars:
    """Compiles schemas for one tokenizer and keeps the recent ones. For one thread.

    `tokenizer` is a fast transformers tokenizer; `vocabulary` is the width of the model's logits; any of the token
    ids `stops` may end a reply once it is complete.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stops: Sequence[int]) -> None:
        from llguidance.hf import from_tokenizer

        size = max(vocabulary, len(tokenizer))
        self._tokenizer = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(stops))
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

    def matcher(self, schema: Mapping[str, Any]) -> LLMatcher:
        """A matcher at the beginning of a reply.

        Raises:
            BackendRequestError: the schema is not valid, not satisfiable, or uses what the grammar engine lacks.
        """
        try:
            text = json.dumps(schema, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _refused(str(error)) from error
        if text in self._compiled:
            self._compiled.move_to_end(text)
        else:
            self._compiled[text] = self._compile(text)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return self._compiled[text].deep_copy()

    def _compile(self, schema: str) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
        except ValueError as error:
            raise _refused(str(error)) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher


def allowed_tokens(matcher: LLMatcher, vocabulary: int) -> NDArray[np.bool_]:
    """Which tokens may come next: shape (vocabulary,)."""
    import numpy as np

    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:vocabulary].view(np.bool_)


def _refused(reason: str) -> BackendRequestError:
    return BackendRequestError(f"The reply's JSON schema cannot be used: {reason.strip()}", status=400)
