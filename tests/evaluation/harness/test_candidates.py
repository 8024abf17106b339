"""Models that are measured: their rows, the settings of their memories, and what stands for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from adapter_files import write_adapter
from pydantic import ValidationError
from tiny_model import TinyModel

from memlora_plugins import nano
from memlora_plugins.errors import SettingsError
from memlora_plugins.evaluation.harness.candidates import ANSWERING, REMEMBERING, Candidate
from memlora_plugins.serving.local import LocalBackend
from memlora_plugins.serving.vllm import VLLMBackend
from memlora_plugins.settings import load_settings

EXPERTS = {"update": "u", "extraction": "e", "generation": "g"}
AT = "http://127.0.0.1:9"


def served(**more: Any) -> Candidate:
    return Candidate(name="student", base="base", base_url=AT, **more)


def test_rows_at_once_and_stage_by_stage() -> None:
    assert served().rows() == {"base": {}}
    every = {"extraction": "e", "update": "u", "generation": "g"}
    assert served(adapters=EXPERTS).rows() == {"base": {}, "experts": every}
    assert list(served(adapters=EXPERTS, stages=True).rows()) == ["base", "+ extraction", "+ update", "+ generation"]
    shared = dict.fromkeys(every, "s")
    assert served(adapters=EXPERTS, shared="s").rows() == {
        "base": {},
        "experts": every,
        "one shared adapter": shared,
    }
    assert served(shared="s", stages=True).rows() == {"base": {}, "one shared adapter": shared}


def test_nano_has_its_experts_and_their_settings(tiny_nano: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Candidate(name="small", base="nano")
    assert one.experts == nano.ADAPTERS
    assert {name: getattr(one.settings(one.experts), name) for name in nano.SETTINGS} == nano.SETTINGS
    plain = load_settings()
    assert one.settings({}).model_dump(include={*REMEMBERING, *ANSWERING}) == plain.model_dump(
        include={*REMEMBERING, *ANSWERING}
    ), "the base alone is used as any base model is"
    backend = one.backend(one.experts)
    assert isinstance(backend, LocalBackend)
    assert set(backend.adapters) == set(nano.ADAPTERS)
    backend.close()
    assert Candidate(name="x", base="nano", adapters={"update": "u"}).experts == {"update": "u"}
    assert Candidate(name="x", base="nano", base_url=AT).experts == {}, "a served model of that name has its own"


def test_without_nanos_weights(no_nano: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="make nano"):
        Candidate(name="nano", base="nano").backend({})


def test_the_environments_server_and_key_are_for_whom_they_are_meant(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMLORA_BASE_URL", "http://127.0.0.1:7")
    monkeypatch.setenv("MEMLORA_API_KEY", "secret-of-another")
    monkeypatch.setenv("MEMLORA_NEIGHBOURS_PER_FACT", "3")
    local = Candidate(name="local", base=str(tiny_model.path))
    assert local.settings({}).base_url is None
    assert local.settings({}).neighbours_per_fact == 3
    assert local.settings({}).api_key is not None
    assert served(api_key_env="TEACHER_KEY").settings({}).api_key is None
    monkeypatch.setenv("TEACHER_KEY", "of-the-teacher")
    found = served(api_key_env="TEACHER_KEY").settings({}).api_key
    assert found is not None
    assert found.get_secret_value() == "of-the-teacher"
    assert isinstance(served().backend({}), VLLMBackend)


def test_what_stands_for_a_model(tiny_model: TinyModel, tmp_path: Path) -> None:
    one = Candidate(
        name="tiny", base=str(tiny_model.path), adapters={k: str(v) for k, v in tiny_model.adapters.items()}
    )
    base, experts = one.who({}), one.who(one.experts)
    assert len(set(base.values())) == 1
    assert str(tmp_path) not in str(experts)
    assert experts["update"].startswith(f"{base['update']} + update@")
    assert served(adapters=EXPERTS).who({"update": "u"}) == {
        "extraction": "student: base",
        "update": "student: base + u",
        "generation": "student: base",
    }
    assert served(api="openai").who({}) != served().who({}), "it may be another model"
    folder = write_adapter(tmp_path / "adapter")
    assert served().names({"update": str(folder)})["update"].startswith("update@")


def test_weights_are_read_again_only_when_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr("memlora_plugins.serving.adapters.weights_sha256", lambda folder: read.append(folder) or "abc")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = Candidate(name="one", base=str(tmp_path))
    assert one.who({}) == one.who({})
    assert len(read) == 1
    (tmp_path / "model.safetensors").write_bytes(b"another")
    one.who({})
    assert len(read) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapters": {"vision": "v"}}, "'vision' is no stage of the pipeline"),
        ({"api": "openai", "adapters": EXPERTS}, "serves no adapters"),
        ({"api": "openai", "shared": "s"}, "serves no adapters"),
        ({"api": "openai", "base_url": None}, "needs base_url"),
        ({"base": " "}, "is needed"),
        ({"name": ""}, "at least 1 character"),
        ({"temperature": 1}, "Extra inputs"),
        ({"teacher": "large"}, "add stages = true"),
        ({"api_key_env": "sk-SECRET-1"}, "the name of an environment variable"),
        ({"api_key": "sk-SECRET-1"}, "api_key\n  Extra inputs"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        Candidate(**({"name": "student", "base": "base", "base_url": AT} | given))
    assert "SECRET" not in str(error.value)
