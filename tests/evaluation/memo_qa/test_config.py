"""The configuration of `memlora eval memo`: defaults, and what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from memlora_plugins.errors import SettingsError
from memlora_plugins.evaluation.harness.config_file import read_config
from memlora_plugins.evaluation.memo_qa import answering as memo_qa
from memlora_plugins.evaluation.memo_qa.config import BASELINES, PROTOCOLS, ExecutiveEndpoint, MemoConfig, MemoryEntry
from memlora_plugins.memo.protocol import Budgets, Temperatures

LEAST = """
questions = "musique.jsonl"
[executive]
base_url = "http://127.0.0.1:1"
model = "large"
"""


def read(folder: Path, text: str) -> MemoConfig:
    file = folder / "memo.toml"
    file.write_text(text)
    return read_config(file, MemoConfig)


def test_the_least_is_the_papers_setting(tmp_path: Path) -> None:
    config = read(tmp_path, LEAST)
    assert config.questions == tmp_path / "musique.jsonl"
    assert (config.runs, config.top_k, config.levels, config.temperature) == (3, 9, (0, 1, 2), 0.3)
    assert config.baselines == BASELINES
    assert (config.budgets.entity, config.budgets.answer, config.temperatures.answer) == (7, 8, 1.0)
    [executive] = config.executive
    assert (executive.label, executive.runs, executive.api_key_env) == ("large", None, "MEMLORA_EXECUTIVE_API_KEY")


def test_everything_said(tmp_path: Path) -> None:
    text = """
    questions = "q.jsonl"
    corpus = "docs"
    negatives = "others"
    noise = [2, 0]
    runs = 1
    baselines = ["dense", "BM25"]
    [budgets]
    answer = 15
    [[executive]]
    name = "one"
    base_url = "http://127.0.0.1:1"
    model = "large"
    runs = 1
    [[executive]]
    base_url = "http://127.0.0.1:2"
    model = "large"
    extra_body = { top_p = 0.9 }
    [judge]
    base_url = "http://127.0.0.1:3"
    model = "strict"
    [[memory]]
    name = "small"
    folder = "models/small"
    epoch = 2
    noise = 1
    protocols = ["structured"]
    [[memory]]
    name = "small"
    base_url = "http://127.0.0.1:4"
    model = "served"
    """
    config = read(tmp_path, text)
    assert config.levels == (0, 2)
    assert [one.label for one in config.executive] == ["one", "large"]
    one, other = config.executive
    assert one.backend().identity != other.backend().identity
    assert "top_p" not in repr(config), "there may be a key among the fields"
    small, served = config.memory
    assert (small.folder, small.protocols) == (tmp_path / "models" / "small", ("structured",))
    assert served.protocols == PROTOCOLS
    assert config.budgets.answer == 15
    assert config.judge is not None
    assert config.judge.api_key_env == "MEMLORA_JUDGE_API_KEY"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("noise = []", "noise: .*at least 1 item"),
        ("noise = [0, 0]", "noise: levels are whole numbers of at least 0, each once"),
        ("noise = [-1]", "noise: levels"),
        ('baselines = ["bm25"]', r"baselines\[1\]: Input should be 'no context'"),
        ("baselines = []", "the file: nothing is to be measured"),
        ("runs = 0", "runs: "),
        ('negatives = "x"', "the file: negatives belong to a corpus"),
        ('corpus = "x"\nnoise = [0, 1]', "the file: noise above 0 takes negatives"),
        ("[budgets]\nanswer = -1", "budgets: Budgets.answer must be a whole number"),
        ("[temperatures]\nanswer = 'warm'", "temperatures.answer: "),
        ("[temperatures]\nanswer = -0.1", "temperatures: a temperature is a finite number of at least 0"),
        ("[temperatures]\nanswer = inf", "temperatures: a temperature is a finite"),
        ("[temperatures]\nmemory_answer = nan", "temperatures: a temperature is a finite"),
        ("[temperatures]\nanswr = 0.1", "temperatures.answr: "),
        ("[[memory]]\nname = 'a'", r"memory\[1\]: a Memory model needs its folder, or base_url"),
        ("[[memory]]\nname = 'a'\nfolder = 'x'\nprotocols = []", r"memory\[1\].protocols: "),
        (
            "[[memory]]\nname = 'a'\nfolder = 'x'\n[[memory]]\nname = 'a'\nfolder = 'y'",
            "memory: two Memory models .* a name of its own, also where it is one model with other budgets",
        ),
        (
            "[[memory]]\nname = 'a'\nfolder = 'x'\n"
            "[[memory]]\nname = 'a'\nfolder = 'x'\nepoch = 1\nbudgets = { answer = 1 }",
            "memory: 'a' has other budgets or temperatures in one entry than in another",
        ),
        (
            "[[memory]]\nname = 'a'\nfolder = 'x'\nbudgets = { answer = -1 }",
            r"memory\[1\].budgets: Budgets.answer must be a whole number",
        ),
        (
            "[[memory]]\nname = 'a'\nfolder = 'x'\ntemperatures = { answer = -1 }",
            r"memory\[1\].temperatures: a temperature is a finite number of at least 0",
        ),
        ("memory = 3", "memory: Input should be a valid tuple"),
        ("memory = [3]", r"memory\[1\]: Input should be a valid dictionary"),
        ("[judge]\nmodel = 'strict'", "judge.base_url: Field required"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, more: str, message: str) -> None:
    top, _, tables = more.partition("[") if more.startswith("[") else (more, "", "")
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, f"{top}\n{LEAST}\n{'[' + tables if tables else ''}")


def test_a_memory_model_may_have_budgets_and_temperatures_of_its_own(tmp_path: Path) -> None:
    text = f"""
    {LEAST}
    [budgets]
    entity = 4
    answer = 6
    [temperatures]
    answer = 0.5
    [[memory]]
    name = "small"
    folder = "models/small"
    [[memory]]
    name = "small, short"
    folder = "models/small"
    [memory.budgets]
    answer = 2
    [memory.temperatures]
    memory_answer = 0.0
    """
    config = read(tmp_path, text)
    whole, short = map(config.of, config.memory)
    assert whole == (Budgets(entity=4, answer=6), Temperatures(answer=0.5))
    assert short == (Budgets(entity=4, answer=2), Temperatures(answer=0.5, memory_answer=0.0))
    single = read(tmp_path, f"{LEAST}[memory]\nname = 'a'\nfolder = 'x'\nbudgets = {{ answer = 2 }}")
    assert single.of(single.memory[0]) == (Budgets(answer=2), Temperatures())


@pytest.mark.parametrize(
    ("where", "key"),
    [("[judge]", "judge"), ("[executive]", "executive[1]"), ("[[memory]]", "memory[1]"), ("", "")],
)
def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path: Path, where: str, key: str) -> None:
    tables = {
        "[executive]": "base_url = 'http://127.0.0.1:1'\nmodel = 'large'\n",
        "[judge]": "base_url = 'http://127.0.0.1:1'\nmodel = 'strict'\n",
        "[[memory]]": "name = 'a'\nfolder = 'x'\n",
    }
    for said, told in (
        ("api_key = 'sk-secret'", "api_key: a key does not belong in a file; .* name that with api_key_env"),
        *([("api_key_env = 'sk-secret'", "api_key_env: this is the name of an environment variable")] if key else ()),
    ):
        text = "".join(f"{name}\n{table}{said if name == where else ''}\n" for name, table in tables.items())
        with pytest.raises(SettingsError, match=re.escape(f"{key}." if key else "") + told) as error:
            read(tmp_path, f"questions = 'q'\n{'' if key else said}\n{text}")
        assert "secret" not in str(error.value)


def test_a_key_given_in_code_is_not_shown_either() -> None:
    with pytest.raises(ValidationError) as error:
        ExecutiveEndpoint.model_validate({"base_url": "http://127.0.0.1:1", "model": "large", "api_key": "sk-secret"})
    assert "secret" not in str(error.value)


def test_executives_have_names_of_their_own(tmp_path: Path) -> None:
    one = "[[executive]]\nbase_url = 'http://127.0.0.1:1'\nmodel = 'large'\n"
    with pytest.raises(SettingsError, match="executive: two Executives of one name"):
        read(tmp_path, f"questions = 'q'\n{one}{one}")
    with pytest.raises(SettingsError, match="executive: Field required"):
        read(tmp_path, "questions = 'q'")


def test_two_servers_with_one_name_for_a_model_are_two() -> None:
    """Their answers are kept apart: one may serve it in four bits, or another size."""
    both = [
        ExecutiveEndpoint(base_url=url, model="large", name=name)
        for url, name in (("http://one.example/v1", "on one"), ("http://two.example/v1", "on two"))
    ]
    asked = [memo_qa._asked(one, one.backend()) for one in both]
    assert asked[0] != asked[1]
    models = [MemoryEntry(name=name, base_url="http://memory.example", model="memory") for name in ("small", "large")]
    assert memo_qa._identity(models[0]) != memo_qa._identity(models[1])
