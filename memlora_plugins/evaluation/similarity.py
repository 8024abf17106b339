"""How similar an answer is to the expected one: the four parts of metric L, and L, their mean.

MemLoRA (section 4, Metrics; D.4) takes ROUGE-1, METEOR, BERTScore-F1 and Sentence-BERT as the Mem0 evaluation code
does, and so does this: ROUGE-1's F1 over Porter stems; METEOR over lowercased words as whitespace parts them;
BERTScore with roberta-large, not rescaled; the cosine of all-MiniLM-L6-v2. All of them are 0 to 1, a negative cosine
is 0, and a blank answer, or a blank expected one, is similar to nothing: 0 in every part.

What the parts do with unusual answers is their own: ROUGE knows the letters a to z and digits only, so that an answer
in another alphabet has 0; METEOR gives an equal answer of `n` words 1 - 0.5 / n³, and looks synonyms up by stems, so
that it knows only those of words that are their own stem; the models read the beginning of a long answer (BERTScore's
says how much in `made_with`, all-MiniLM-L6-v2 reads 256 tokens).

Two of them need files that cannot be had everywhere (WordNet, roberta-large). Nothing is downloaded here: a part whose
package or file is not there is in `missing`, the others are computed, and L, which is never a mean of some, is None.
"""

from __future__ import annotations

import os
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import EmbeddingError, InvalidInputError, MemloraError, MissingDependencyError
from ..types import clean_text
from .wordnet import open_wordnet

if TYPE_CHECKING:
    from typing import Self

PARTS = ("rouge1", "meteor", "bertscore", "sentence_bert")
"""What L is the mean of."""

BERTSCORE_MODEL = "roberta-large"

_Pair = tuple[str, str]
_QUOTED_PATH = re.compile(r"(['\"])(~?/[^'\"\n]+)\1")
_PATH = re.compile(r"(?<![\w:/.~*-])~?/[^\s'\",;:()<>]+")
_EXTRA = 'pip install "memlora-plugins[eval]"'
_BERTSCORE_NAMES = (BERTSCORE_MODEL, "FacebookAI/roberta-large")  # as the hub called it, and calls it
_BERTSCORE_PAIRS = 64  # whose token vectors are in memory at a time: 0.3 GB if all are as long as the model reads
_BERTSCORE_ROWS = 32  # texts in one forward pass


def composite(parts: Mapping[str, float]) -> float | None:
    """L: the mean of the four parts, or None unless all four are there."""
    if any(part not in parts for part in PARTS):
        return None
    return statistics.fmean(parts[part] for part in PARTS)


class Similarity:
    """The parts of L that can be computed here. For one thread.

    `wordnet` is the folder of WordNet's database, by default what `wordnet.find` finds. `bertscore_model` is a folder,
    or the name of a model in the local Hugging Face cache; by default roberta-large. `sentence_model` is a name or a
    folder, as of `SentenceTransformerEmbedder`. `device` is torch's (`"cpu"`, `"cuda"`, …), for both models.

    The constructor loads all of it, so that what is missing is known before a long run: `missing` says, by part, why
    it is not there and how to get it; `made_with` what computes the others, with versions, model and layer. Both may
    be published: of a path, they have the last part only.
    """

    def __init__(
        self,
        *,
        wordnet: str | os.PathLike[str] | None = None,
        bertscore_model: str | os.PathLike[str] | None = None,
        sentence_model: str | os.PathLike[str] = "all-MiniLM-L6-v2",
        device: str = "cpu",
    ) -> None:
        makers: dict[str, Callable[[], _Part]] = {
            "rouge1": _Rouge,
            "meteor": lambda: _Meteor(wordnet),
            "bertscore": lambda: _BertScore(bertscore_model, device),
            "sentence_bert": lambda: _SentenceBert(sentence_model, device),
        }
        self._parts: dict[str, _Part] = {}
        missing = {}
        for part, make in makers.items():
            try:
                self._parts[part] = make()
            except MemloraError as error:
                missing[part] = _without_paths(str(error), wordnet, bertscore_model, sentence_model)
        self.missing: Mapping[str, str] = MappingProxyType(missing)
        self.made_with: Mapping[str, str] = MappingProxyType(
            {name: part.made_with for name, part in self._parts.items()}
        )

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, float]]:
        """The available parts, each 0 to 1, of every (answer, expected answer), in their order.

        Equal pairs are computed once, and the models get their texts in batches.

        Raises:
            InvalidInputError: something else than pairs of strings. EmbeddingError: a model failed.
        """
        wanted = [_checked(pair) for pair in pairs]
        spoken = [pair for pair in dict.fromkeys(wanted) if pair[0].strip() and pair[1].strip()]
        found: dict[_Pair, dict[str, float]] = {pair: dict.fromkeys(self._parts, 0.0) for pair in wanted}
        if spoken:
            for name, part in self._parts.items():
                for pair, score in zip(spoken, part.scores(spoken), strict=True):
                    found[pair][name] = min(1.0, max(0.0, score))
        return [dict(found[pair]) for pair in wanted]

    def close(self) -> None:
        """Free the models. Idempotent; `scores` cannot be asked afterwards."""
        for part in self._parts.values():
            part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _without_paths(told: str, *given: str | os.PathLike[str] | None) -> str:
    """`told` with the last part only of each absolute path that was `given`, is in quotes, or has no spaces."""
    for folder in (Path(one).expanduser() for one in given if one is not None):
        for form in (folder.resolve(), folder):
            told = told.replace(str(form), form.name) if form.is_absolute() and form.name else told
    told = _QUOTED_PATH.sub(lambda found: f"{found[1]}{Path(found[2]).name}{found[1]}", told)
    return _PATH.sub(lambda found: Path(found[0]).name, told)


def _checked(pair: object) -> _Pair:
    match pair:
        case (str(answer), str(expected)):
            return clean_text(answer), clean_text(expected)
    raise InvalidInputError(f"scores() takes pairs of strings, (answer, expected answer), not {pair!r:.80}.")


class _Part(Protocol):
    """One part of L: whatever it needs is loaded by the constructor, which raises MemloraError where it is not there.

    `scores` gets at least one pair, and no blank text.
    """

    made_with: str

    def scores(self, pairs: Sequence[_Pair]) -> list[float]: ...

    def close(self) -> None: ...


class _Rouge:
    def __init__(self) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingDependencyError(f"ROUGE-1 needs rouge-score: {_EXTRA}") from error
        self._scorer = RougeScorer(["rouge1"], use_stemmer=True)
        self.made_with = f"rouge-score {version('rouge-score')}: F1 of Porter stems"

    def scores(self, pairs: Sequence[_Pair]) -> list[float]:
        return [float(self._scorer.score(expected, answer)["rouge1"].fmeasure) for answer, expected in pairs]

    def close(self) -> None:
        pass


class _Meteor:
    def __init__(self, wordnet: str | os.PathLike[str] | None) -> None:
        self._wordnet = open_wordnet(wordnet)
        from nltk.translate.meteor_score import single_meteor_score  # type: ignore[import-untyped]

        self._score = single_meteor_score
        self.made_with = f"nltk {version('nltk')}: words between whitespace, WordNet {self._wordnet.get_version()}"

    def scores(self, pairs: Sequence[_Pair]) -> list[float]:
        return [self._score(expected.split(), answer.split(), wordnet=self._wordnet) for answer, expected in pairs]

    def close(self) -> None:
        self._wordnet.close()


class _BertScore:
    """bert-score's own matching, over a model and tokenizer that are loaded here.

    bert-score is the reference and what the paper's figures are made with; its loading would ask the hub, and does not
    know transformers 5: there RoBERTa's first word misses its space, and an empty text is an error. torchmetrics, the
    maintained alternative, puts the pairs of a batch into another order (Lightning-AI/torchmetrics#2728), which takes
    0.62 to 0.12; one pair at a time it is right, but slow, and does not match with the special tokens.
    """

    def __init__(self, model: str | os.PathLike[str] | None, device: str) -> None:
        try:
            import torch
            from bert_score.utils import bert_cos_score_idf, model2layers  # type: ignore[import-untyped]
            from transformers import AutoConfig, AutoModel, AutoTokenizer
            from transformers.utils import logging

            from ..serving.checkpoint import readable
        except ImportError as error:
            raise MissingDependencyError(f"BERTScore needs bert-score and transformers ({error}): {_EXTRA}") from error

        folder, name = _model_folder(model)
        noise: Any = logging  # its functions have no types
        verbosity = noise.get_verbosity()
        noise.set_verbosity_error()  # the layers above the one that is read are left out on purpose
        try:
            with readable(folder):
                config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
                layers = config.num_hidden_layers
                layer = min(layers, _layer(str(model or BERTSCORE_MODEL), model2layers) or layers)
                config.num_hidden_layers = layer
                spaced = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2") else {}
                self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **spaced)
                loaded: Any = AutoModel.from_pretrained(
                    folder, config=config, dtype=torch.float32, local_files_only=True
                )
                self._model: Any = loaded.to(device).eval()
                # RoBERTa counts positions from 2
                positions = getattr(config, "max_position_embeddings", 514)
                self._tokenizer.model_max_length = min(self._tokenizer.model_max_length, positions - 2)
                self._match = bert_cos_score_idf
                self._device = device
                self._f1([("one", "try")])
        finally:
            noise.set_verbosity(verbosity)
        self.made_with = (
            f"bert-score {version('bert-score')}: F1 of {name}, layer {layer} of {layers}, not rescaled, "
            f"the first {self._tokenizer.model_max_length} tokens"
        )

    def scores(self, pairs: Sequence[_Pair]) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda place: sum(map(len, pairs[place])))  # so that little is padded
        order = [place for place in order if all(self._tokens(text) for text in pairs[place])]
        found = [0.0] * len(pairs)
        for start in range(0, len(order), _BERTSCORE_PAIRS):
            places = order[start : start + _BERTSCORE_PAIRS]
            try:
                together = self._f1([pairs[place] for place in places])
            except RuntimeError as error:
                raise EmbeddingError(f"BERTScore's model failed: {error}") from error
            for place, f1 in zip(places, together, strict=True):
                found[place] = f1
        return found

    def _f1(self, pairs: Sequence[_Pair]) -> list[float]:
        weights: defaultdict[int, float] = defaultdict(lambda: 1.0)
        weights[self._tokenizer.cls_token_id] = weights[self._tokenizer.sep_token_id] = 0.0
        answers, expected = zip(*pairs, strict=True)
        triples = self._match(
            self._model,
            list(expected),
            list(answers),
            self._tokenizer,
            weights,
            batch_size=_BERTSCORE_ROWS,
            device=self._device,
        )
        f1: list[float] = triples[:, 2].tolist()
        return f1

    def _tokens(self, text: str) -> list[int]:
        """What the model reads of a text; nothing of one that is all control characters."""
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False, truncation=True)
        return tokens

    def close(self) -> None:
        self._model = None


class _SentenceBert:
    def __init__(self, model: str | os.PathLike[str], device: str) -> None:
        from ..embedding import SentenceTransformerEmbedder

        self._embedder = SentenceTransformerEmbedder(model, device=device)
        try:
            self._embedder.embed(["loads the model"])
        except MemloraError:
            self._embedder.close()
            raise
        self.made_with = f"sentence-transformers {version('sentence-transformers')}: cosine of {self._embedder.name}"

    def scores(self, pairs: Sequence[_Pair]) -> list[float]:
        rows = {text: row for row, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        vectors = self._embedder.embed(list(rows))
        return [float(vectors[rows[answer]] @ vectors[rows[expected]]) for answer, expected in pairs]

    def close(self) -> None:
        self._embedder.close()


def _model_folder(model: str | os.PathLike[str] | None) -> tuple[Path, str]:
    """The folder of BERTScore's model and what reports call it: its name, or for a folder the digest of its weights.

    Raises:
        MissingDependencyError: it is not on this machine.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from ..sentence_model import Source

    if model is not None and Path(model).expanduser().is_dir():
        folder = Path(model).expanduser().resolve()
        return folder, Source(str(folder)).name
    wanted = BERTSCORE_MODEL if model is None else os.fspath(model)
    for name in _BERTSCORE_NAMES if model is None else (wanted,):
        try:
            return Path(snapshot_download(name, local_files_only=True)), wanted
        except (LocalEntryNotFoundError, HFValidationError):
            continue
    known = Path(wanted)
    shown = known.name if isinstance(model, os.PathLike) or known.is_absolute() or wanted.startswith("~") else wanted
    raise MissingDependencyError(
        f"BERTScore's model {shown} is not on this machine. Download it once (hf download {BERTSCORE_MODEL}), or give "
        "the folder of a copy."
    )


def _layer(model: str, known: Mapping[str, int]) -> int | None:
    """The layer whose vectors agree best with people's judgement, by bert-score's table of names; None: not known.

    A folder is known by its name, also as the Hugging Face cache writes it: `models--FacebookAI--roberta-large`.
    """
    by_name = {name.rsplit("/", 1)[-1]: layer for name, layer in known.items()}
    parts = [part.rsplit("--", 1)[-1] for part in Path(model).parts]
    return next((by_name[part] for part in reversed(parts) if part in by_name), None)
