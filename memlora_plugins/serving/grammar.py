"""JSON schemas (compact JSON without spaces) and regular expressions as grammars for a model in process: the ones the
vLLM server uses."""

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
    """Compiles grammars for one tokenizer and keeps the recent ones. For one thread.

    `tokenizer` is a fast transformers tokenizer; `vocabulary` is the width of the model's logits; any of the token
    ids `stops` may end a reply once it is complete.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, stops: Sequence[int]) -> None:
        from llguidance.hf import from_tokenizer

        size = max(vocabulary, len(tokenizer))
        self._tokenizer = from_tokenizer(tokenizer, n_vocab=size, eos_token=list(stops))
        self._compiled: OrderedDict[tuple[str, str], LLMatcher] = OrderedDict()

    def matcher(self, form: Mapping[str, Any] | str) -> LLMatcher:
        """A matcher at the beginning of a reply in this form: a JSON schema, or a regular expression.

        Raises:
            BackendRequestError: it is not valid, not satisfiable, or uses what the grammar engine lacks.
        """
        try:
            key = ("pattern", form) if isinstance(form, str) else ("JSON schema", json.dumps(form, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise _refused("JSON schema", str(error)) from error
        if key in self._compiled:
            self._compiled.move_to_end(key)
        else:
            self._compiled[key] = self._compile(*key)
            if len(self._compiled) > _KEPT:
                self._compiled.popitem(last=False)
        return self._compiled[key].deep_copy()

    def _compile(self, kind: str, text: str) -> LLMatcher:
        from llguidance import LLMatcher

        try:
            if kind == "pattern":
                grammar = LLMatcher.grammar_from_regex(text)
            else:
                grammar = LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": False})
        except ValueError as error:
            raise _refused(kind, str(error)) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _refused(kind, matcher.get_error())
        return matcher


def allowed_tokens(matcher: LLMatcher, vocabulary: int) -> NDArray[np.bool_]:
    """Which tokens may come next: shape (vocabulary,)."""
    import numpy as np

    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    return np.unpackbits(bits, bitorder="little")[:vocabulary].view(np.bool_)


def _refused(kind: str, reason: str) -> BackendRequestError:
    return BackendRequestError(f"The reply's {kind} cannot be used: {reason.strip()}", status=400)
