"""A new corpus into a Memory model: it is trained alone, from the same base, and all parts are merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from merge_models import trained, weights
from reflections_by_heart import BY_HEART, reflections
from tiny_model import TinyModel

from memlora_plugins.errors import SettingsError
from memlora_plugins.memo.card import read_card
from memlora_plugins.memo.memory_model import MemoryModel
from memlora_plugins.memo.merging import merge
from memlora_plugins.memo.merging.methods import Recipe
from memlora_plugins.memo.reflections import Reflection
from memlora_plugins.memo.training import MemoOptions, memo_options, train_memory_model
from memlora_plugins.memo.update import part_options, update

pytestmark = pytest.mark.filterwarnings("ignore:.(is_)?gradient_checkpointing. is deprecated:FutureWarning")

QUICK: dict[str, Any] = BY_HEART | {"epochs": 1}


def about(*things: str) -> list[Reflection]:
    return [one for one in reflections() if one.documents[0].removesuffix(".txt") in things]


@pytest.fixture(scope="module")
def shelf(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base and a Memory model that was trained on what is known of Ana."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(tiny_model.path, folder / "base")
    train_memory_model(folder / "base", about("Ana"), folder / "ana", memo_options(**QUICK))
    return folder


@pytest.fixture
def place(shelf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "place"))


def documents(folder: Path) -> list[str]:
    return [document.id for document in read_card(folder).documents]


def test_a_corpus_after_the_other(place: Path) -> None:
    seen: list[object] = []
    first = update(place / "ana", about("cats"), place / "memory", on_training=seen.append, on_event=seen.append)
    assert documents(place / "memory") == ["Ana.txt", "cats.txt"]
    assert documents(first.part.folder) == ["cats.txt"]  # nothing else was trained on
    assert first.part.folder.parent == place / "memory.parts"
    assert {type(event).__name__ for event in seen} == {"TrainingEvent", "MergeEvent"}

    recipe = Recipe(method="linear", scale=0.8)
    update(place / "memory", about("tea"), recipe=recipe)
    assert documents(place / "memory") == ["Ana.txt", "cats.txt", "tea.txt"]
    moved = place.rename(place.with_name("moved"))  # all of it together
    last = update(moved / "memory", about("nurse"))
    assert documents(moved / "memory") == ["Ana.txt", "cats.txt", "tea.txt", "nurse.txt"]
    assert last.merged.card["merge"]["method"] == "linear"  # as before
    assert last.merged.card["merge"]["scale"] == 0.8
    parts = [
        moved / "ana",
        *(moved / "memory" / part["folder"] for part in last.merged.card["memo"]["merged_from"][1:]),
    ]
    again = merge(moved / "base", parts, moved / "again", method="linear", scale=0.8)
    ours, theirs = weights(last.merged.folder), weights(again.folder)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    with MemoryModel.open(moved / "memory", max_tokens=4, device="cpu") as model:
        assert model.ask(["Where is Ana?"])[0].error is None


def test_what_was_stopped_goes_on(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    once = update(place / "ana", about("cats"), place / "memory")
    again = update(place / "memory", about("cats"), resume=True)  # stopped after the merge, say
    assert again.part.card == once.part.card
    assert len(again.merged.card["memo"]["merged_from"]) == 2
    assert again.repeated == ("cats.txt",)
    assert "known already" in caplog.text


def test_adapters_stay_an_adapter(tiny_model: TinyModel, tmp_path: Path) -> None:
    options = memo_options(False, **QUICK | {"rank": 2})
    train_memory_model(tiny_model.path, about("Ana"), tmp_path / "ana", options)
    first = update(tmp_path / "ana", about("cats"), tmp_path / "memory", base=tiny_model.path, rank=4)
    assert first.part.card["options"]["rank"] == 2  # trained as the first part was
    second = update(tmp_path / "memory", about("tea"))
    assert second.merged.card["merge"]["rank"] == 4
    assert (tmp_path / "memory" / "adapter_config.json").is_file()
    assert 0 < (second.merged.norm_kept or 0) <= 1


def test_options_of_the_first_part_with_changes(place: Path) -> None:
    told = part_options(place / "ana", epochs=7)
    assert isinstance(told, MemoOptions)
    assert (told.epochs, told.learning_rate, told.full) == (7, QUICK["learning_rate"], True)
    with pytest.raises(SettingsError, match="epochs"):
        part_options(place / "ana", epochs=0)


def test_a_part_that_does_not_say_how_it_was_trained(tiny_model: TinyModel, tmp_path: Path) -> None:
    trained(tiny_model.path, tmp_path / "part", seed=1, documents=["a"])
    with pytest.raises(SettingsError, match="does not say how it was trained"):
        update(tmp_path / "part", about("cats"), tmp_path / "out", base=tiny_model.path)


def test_what_is_missing_is_named(place: Path) -> None:
    update(place / "ana", about("cats"), place / "memory")
    shutil.move(place / "ana", place / "elsewhere")
    with pytest.raises(SettingsError, match=r"merged from .*/ana, which is not there"):
        update(place / "memory", about("tea"))
    shutil.move(place / "elsewhere", place / "ana")
    shutil.move(place / "base", place / "elsewhere")
    with pytest.raises(SettingsError, match=r"The base model base of .*memory is not found.*--base"):
        update(place / "memory", about("tea"))
    with pytest.raises(SettingsError, match="no Memory model"):
        update(place / "elsewhere", about("tea"), place / "out")


def test_a_trained_model_is_not_replaced(place: Path, tmp_path: Path) -> None:
    before = json.loads((place / "ana" / "memlora.json").read_text())
    with pytest.raises(SettingsError, match="must stay"):
        update(place / "ana", about("cats"))
    with pytest.raises(SettingsError, match="would replace"):
        update(place / "ana", about("cats"), place / "ana")
    assert json.loads((place / "ana" / "memlora.json").read_text()) == before


def test_a_folder_of_something_else_is_noticed_before_training(place: Path) -> None:
    (place / "notes").mkdir()
    (place / "notes" / "diary.txt").write_text("Dear diary")
    with pytest.raises(SettingsError, match="choose another folder"):
        update(place / "ana", about("cats"), place / "notes")
    assert not (place / "notes.parts").exists()


def test_weights_for_fewer_parts_are_noticed_before_training(place: Path) -> None:
    update(place / "ana", about("cats"), place / "memory", recipe=Recipe(method="linear", weights=(1, 2)))
    with pytest.raises(SettingsError, match="3 models need as many weights"):
        update(place / "memory", about("tea"))


def test_one_process_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="accelerate launch"):
        update(place / "ana", about("cats"), place / "memory")
