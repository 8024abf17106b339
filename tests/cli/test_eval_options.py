"""What the commands of `memlora eval` share: the command line as a report tells it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from memlora_plugins.cli.eval_options import Api, StagedStudentOptions, StudentOptions, repeated

ELSEWHERE = f"{tempfile.gettempdir()}/someone"
"""A folder of this machine, which no report is to tell."""


def told(*words: str) -> str:
    """What a report says of a command that was called with these words."""
    app = typer.Typer()

    @app.command()
    def show(
        context: typer.Context,
        file: Annotated[Path | None, typer.Argument()] = None,
        base: Annotated[str, typer.Option()] = "nano",
        adapter: Annotated[list[str] | None, typer.Option()] = None,
        base_url: Annotated[str | None, typer.Option(envvar="SOME_URL")] = None,
        api: Annotated[Api, typer.Option()] = Api.vllm,
        stages: Annotated[bool, typer.Option("--stages")] = False,
    ) -> None:
        print(json.dumps(repeated(context)))  # noqa: T201

    done = CliRunner().invoke(app, list(words), prog_name="memlora", env={"SOME_URL": "http://127.0.0.1:7"})
    assert done.exit_code == 0, done.output
    line: str = json.loads(done.stdout)
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([f"{ELSEWHERE}/data/talk.json"], "talk.json"),
        (["--base", f"{ELSEWHERE}/models/student"], "--base student"),
        (["--base", "~/models/student"], "--base student"),
        (["--base", "Qwen/Qwen2.5-1.5B-Instruct"], "--base Qwen/Qwen2.5-1.5B-Instruct"),
        (
            ["--adapter", f"extraction={ELSEWHERE}/private/extraction", "--adapter=update=~/mine/update"],
            "--adapter extraction=extraction --adapter update=update",
        ),
        (["--adapter", "generation=../private/generation/"], "--adapter generation=generation"),
        (["--adapter", f"generation={ELSEWHERE} else/a b"], "--adapter 'generation=a b'"),
        (["--adapter", "generation=served-name"], "--adapter generation=served-name"),
        (["--base-url", "http://me:hush@127.0.0.1:8/v1?key=hush#x=1"], "--base-url http://127.0.0.1:8/v1"),
        (["--base-url", "HTTPS://hush@host:443?a=/b"], "--base-url HTTPS://host:443"),
        (["--adapter", "extraction=http://me:hush@host/x?key=hush"], "--adapter extraction=http://host/x"),
        (["--api", "openai", "--stages"], "--api openai --stages"),
    ],
)
def test_a_report_tells_names_and_neither_folders_nor_keys(words: list[str], line: str) -> None:
    assert told(*words) == f"memlora {line}"


def test_what_the_environment_says_is_not_told() -> None:
    assert told() == "memlora"


def test_a_student_is_named_by_its_base_and_what_goes_with_it() -> None:
    far = {"base": "far", "base_url": "http://127.0.0.1:9", "adapter": ["update=one"]}
    plain = StudentOptions(**far).candidate(stages=True)  # type: ignore[arg-type]
    assert (plain.name, plain.base_url, plain.api, plain.experts) == ("far", far["base_url"], "vllm", {"update": "one"})
    assert plain.stages
    shared = StagedStudentOptions(**far, shared=Path("all")).candidate()  # type: ignore[arg-type]
    assert (shared.shared, shared.stages) == ("all", False)
    with pytest.raises(typer.BadParameter, match="--base"):
        StagedStudentOptions().candidate()
    with pytest.raises(typer.BadParameter, match="adapter"):
        StagedStudentOptions(**far, api=Api.openai).candidate()  # type: ignore[arg-type]
