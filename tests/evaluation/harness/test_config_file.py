"""Measurements described by TOML: what is read, and that errors name the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from memlora_plugins.errors import SettingsError
from memlora_plugins.evaluation.harness.config_file import BesideName, BesidePath, read_config


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    data: BesidePath
    base: BesideName = "MiniLM"
    runs: int = Field(default=1, ge=1)
    part: tuple[Part, ...] = ()
    some: tuple[Part, ...] = Field(default=(Part(name="a"),), min_length=1)


def written(folder: Path, text: str) -> Path:
    file = folder / "measure.toml"
    file.write_text(text)
    return file


def test_paths_count_from_the_files_folder_and_names_stay(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    read = read_config(written(tmp_path, 'data = "a/b.jsonl"\nbase = "model"'), Whole)
    assert (read.data, read.base) == (tmp_path / "a" / "b.jsonl", str(tmp_path / "model"))
    assert read_config(written(tmp_path, f'data = "{tmp_path}"\nbase = "some/name"'), Whole).base == "some/name"
    assert read_config(written(tmp_path, f'data = "{tmp_path}"'), Whole).data == tmp_path


def test_what_code_says_stays_as_it_is() -> None:
    assert Whole(data=Path("x")).data == Path("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = ", "is not TOML"),
        ("runs = 3", "data: Field required"),
        ('data = "x"\nruns = 0', "runs: Input should be greater than or equal to 1"),
        ('data = "x"\nrunz = 1', "runz: Extra inputs are not permitted"),
        ('data = "x"\n[[part]]\nname = "a"\n[[part]]\nname = 3', r"part\[2\].name: Input should be a valid string"),
        ('runs = "secret"', "data: Field required; runs: "),
        ('data = "x"\nsome = []', r"some: .* at least 1 item"),
        ('data = "x"\n[[some]]\nname = 3', r"toml: some\[1\].name: Input should be a valid string\.$"),
    ],
)
def test_what_cannot_be_names_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as told:
        read_config(file, Whole)
    assert str(told.value).startswith(str(file))
    assert "secret" not in str(told.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "none.toml", Whole)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_config(tmp_path / "binary.toml", Whole)
