"""The options that name a judge."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner, Result

from memlora_plugins.cli.judge import JudgeOptions
from memlora_plugins.cli.options import command
from memlora_plugins.serving.base import Request


@pytest.fixture(autouse=True)
def use_clean_environment(clean_environment: None) -> None:
    """No judge but the one that is named here."""


def run(*words: str) -> Result:
    app = typer.Typer()

    @app.command()
    @command
    def show(judge: JudgeOptions) -> None:
        print(judge.backend() if judge.named else "none")  # noqa: T201

    return CliRunner().invoke(app, list(words))


def test_a_judge_is_named_by_address_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().stdout.strip() == "none"
    given = run("--judge-url", "http://127.0.0.1:9", "--judge-model", "big")
    assert given.stdout.strip() == "<NamedBackend: big at http://127.0.0.1:9>"
    monkeypatch.setenv("MEMLORA_JUDGE_URL", "http://127.0.0.1:8/v1")
    monkeypatch.setenv("MEMLORA_JUDGE_MODEL", "other")
    assert "other at http://127.0.0.1:8" in run().stdout


def test_one_without_the_other_is_refused() -> None:
    refused = run("--judge-model", "big")
    assert refused.exit_code == 2
    assert "belong together" in refused.output


def test_an_unusable_address_or_name_is_one_line() -> None:
    for url, model, told in (("nowhere", "big", "nowhere"), ("http://127.0.0.1:9", " ", "model: ")):
        refused = run("--judge-url", url, "--judge-model", model)
        assert refused.exit_code == 1
        assert told in refused.output
        assert refused.output.count("\n") == 1


def test_it_is_named_where_it_is_out_of_reach() -> None:
    def ask(judge: JudgeOptions) -> None:
        judge.backend().complete(Request("judge", [{"role": "user", "content": "Right?"}]))

    app = typer.Typer()
    app.command()(command(ask))
    told = CliRunner().invoke(app, ["--judge-url", "http://127.0.0.1:9", "--judge-model", "big"])
    assert told.exit_code == 1
    assert told.output.startswith("error: The judge 'big': No model server answers at http://127.0.0.1:9 ")


def test_its_key_goes_along_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLORA_JUDGE_API_KEY", "secret-key")
    given = run("--judge-url", "http://127.0.0.1:9", "--judge-model", "big")
    assert given.exit_code == 0
    assert "secret-key" not in given.output
