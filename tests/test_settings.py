"""Settings: explicit before environment, secrets unseen, mistakes named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from memlora_plugins.errors import SettingsError
from memlora_plugins.settings import load_settings
from memlora_plugins.store.ranking import Ranking


def test_explicit_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_MODEL", "from-environment")
    monkeypatch.setenv("MEMLORA_ADAPTERS", '{"extraction": "a"}')
    assert load_settings().model == "from-environment"
    assert load_settings(model="explicit").model == "explicit"
    assert load_settings(model=None).adapters == {"extraction": "a"}
    assert load_settings(adapters={"update": "b"}).adapters == {"update": "b"}
    assert load_settings(adapters={}).adapters == {}


def test_secrets_are_neither_shown_nor_carried() -> None:
    settings = load_settings(api_key="s3cret", qdrant_api_key="s3cret", embedder_api_key="s3cret", path="x")
    assert "s3cret" not in repr(settings) + str(settings)
    assert settings.portable() == {"path": str(Path("x").absolute())}
    assert b"s3cret" not in pickle.dumps(settings.portable())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"base_url": "http://127.0.0.1:1"}, "model"),
        ({"adapters": {"update": "x"}}, "model"),
        ({"api": "openai", "model": "m"}, "base_url"),
        ({"workers": 0}, "workers"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"api_key": 3, "workers": "many"}, "workers"),
        ({"ranking": 3}, "ranking: A ranking is a Ranking or a table of text, context"),
        ({"ranking": {"words": 1.0}}, "ranking: A ranking is a Ranking or a table of text, context"),
        ({"ranking": {"named": -1}}, "ranking: Ranking.named is a finite number of at least 0, got -1"),
        ({"ranking": {"named": "0.4"}}, "Ranking.named is a finite number of at least 0, got '0.4'"),
        ({"qdrant_url": "127.0.0.1:6333"}, "qdrant_url must be an http"),
        ({"qdrant_url": "http://ana:s3cret@127.0.0.1:6333"}, "pass qdrant_api_key instead"),
    ],
)
def test_mistakes_are_named_and_secrets_are_not_repeated(values: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        load_settings(**values)
    assert "s3cret" not in str(caught.value)


def test_there_is_a_model_where_one_is_named_or_nano_is_there(
    tiny_nano: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().has_model
    assert load_settings(model="folder").has_model
    assert not load_settings(model="none").has_model
    assert load_settings(model="none", base_url="http://127.0.0.1:1").has_model  # a server may call its model so
    with monkeypatch.context() as without:
        without.setattr("memlora_plugins.nano.BASE", tmp_path)
        assert not load_settings().has_model
        assert load_settings(model="folder").has_model
    monkeypatch.setenv("MEMLORA_MODEL", "none")
    assert not load_settings().has_model


def test_what_was_said_travels_even_where_it_is_the_default() -> None:
    assert load_settings(model="none", token_budget=800).portable().keys() == {"path", "model", "token_budget"}


@pytest.mark.parametrize("budget", [0, 15, "much"])
def test_an_answer_budget_that_holds_nothing_is_refused(budget: object) -> None:
    with pytest.raises(SettingsError, match="answer_budget"):
        load_settings(answer_budget=budget)


def test_a_ranking_is_one_or_a_table_of_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().ranking == load_settings(ranking=None).ranking == Ranking()
    assert "ranking" not in load_settings().portable()
    chosen = Ranking(named=0.4, fusion="rrf")
    settings = load_settings(ranking=chosen)
    assert settings.ranking is chosen
    stored = json.loads(json.dumps(settings.portable()))
    assert load_settings(**stored).ranking == chosen
    assert load_settings(ranking={"named": 0.4, "fusion": "rrf"}).ranking == chosen
    monkeypatch.setenv("MEMLORA_RANKING", '{"named": 0.1}')
    assert load_settings().ranking == Ranking(named=0.1)
    assert load_settings(ranking=chosen).ranking == chosen
    monkeypatch.setenv("MEMLORA_RANKING", "named=0.1")
    with pytest.raises(SettingsError, match=r"MEMLORA_RANKING is not JSON; write .*named"):
        load_settings()


def test_adapters_in_the_environment_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_ADAPTERS", "extraction=experts/extraction")
    with pytest.raises(SettingsError, match="MEMLORA_ADAPTERS is not JSON"):
        load_settings()
