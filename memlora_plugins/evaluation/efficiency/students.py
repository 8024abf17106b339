"""Students whose efficiency is measured, in process and on a vLLM server: the base alone, and the base with experts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import httpx

from ...flows.effects import CALLS_ONLY, drive
from ...serving.adapters import base_config, check_base, preflight
from ...serving.http import Transport
from ...serving.local import LocalBackend, model_folder
from ...serving.vllm import VLLMBackend
from ...training.identity import digest
from ..harness.candidates import ANSWERING, REMEMBERING, Candidate
from ..harness.machine import versions
from .costs import Place, Student, Subject
from .weights import adapter_weights, model_weights

if TYPE_CHECKING:
    from pydantic import SecretStr

Precision = Literal["float32", "bfloat16", "float16"]


def folder_of(what: Candidate) -> Path | None:
    """Where the base is: None for one that a server has under a name.

    Raises:
        SettingsError: it is no folder and not in the Hugging Face cache; or nano's weights are not in this package.
        AdapterInvalidError: an adapter does not belong to it.
    """
    what.settings(what.experts)  # says what there is to say about nano
    if what.base_url is not None:
        return None
    folder = model_folder(what.model, allow_download=False)
    config = base_config(folder)
    for expert, place in what.experts.items():
        check_base(preflight(expert, Path(place), base_config=config), folder)
    return folder


def digest_of(what: Candidate) -> str:
    """The hash of all that its figures depend on: base, adapters, and the memory's settings."""
    settings = what.settings(what.experts)
    return digest([what.who(what.experts), settings.model_dump(mode="json", include={*REMEMBERING, *ANSWERING})])


def in_process(what: Candidate, precision: Precision, command: str) -> list[Subject]:
    """It without and with its experts, in this process. Both work as a memory with the experts does.

    Raises:
        SettingsError: there is no folder of it, or its weights cannot be read.
        MissingDependencyError: a package of the extra `local` is missing.
    """
    folder = model_folder(what.model, allow_download=False)
    settings = what.settings(what.experts)
    LocalBackend(folder, what.experts, dtype=precision).close()  # checks what can be checked without loading it

    import torch

    from ...serving.checkpoint import limit_threads

    limit_threads(None)  # as it is done when a model is loaded
    threads = torch.get_num_threads()
    engine = f"{versions('torch', 'transformers', 'peft')}, {threads} thread{'s' if threads > 1 else ''}"

    def opened(adapters: Mapping[str, str]) -> Subject:
        student = _student(what, adapters, "in process", precision, engine, command)
        return Subject(student, lambda _: LocalBackend(folder, adapters, dtype=precision), settings)

    return [opened(adapters) for adapters in _without_and_with(what)]


def on_server(
    what: Candidate,
    base_url: str,
    served_name: str,
    adapters: Mapping[str, str],
    *,
    precision: Precision | None,
    api_key: SecretStr | None,
    command: str,
) -> list[Subject]:
    """It without and with its experts, on the vLLM server at `base_url`.

    The server has it under `served_name`; `adapters` are its experts' as the server can load or already serves them.
    `precision` None: the server does not tell.

    Raises:
        BackendUnavailableError, BackendRequestError: no model server answers there.
    """
    engine = server_version(base_url, api_key)
    settings = what.settings(what.experts)

    def opened(measured: Mapping[str, str]) -> Subject:
        used = {expert: adapters[expert] for expert in measured}

        def backend(pass_id: str) -> VLLMBackend:
            # What a server kept of prompts is not used across salts, and an earlier measurement may have asked alike.
            salt = f"{pass_id} {uuid.uuid4().hex}"
            return VLLMBackend(
                base_url,
                served_name,
                used,
                api_key=api_key,
                extra_body={"cache_salt": salt},
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
            )

        student = _student(what, measured, "vLLM", precision or "the server's own", engine, command)
        return Subject(student, backend, settings)

    return [opened(measured) for measured in _without_and_with(what)]


def server_version(base_url: str, api_key: SecretStr | None = None) -> str:
    """`vLLM 0.32.0`, or without the number where the server does not tell it.

    Raises:
        BackendUnavailableError, BackendRequestError: no model server answers there.
    """
    transport = Transport(
        base_url, api_key=api_key, hint="Start a server with `memlora serve`, or with --serve, or check --base-url."
    )
    try:
        drive(transport.get("/models"), CALLS_ONLY)
        told = transport.client().get(f"{transport.root_url}/version")
        return f"vLLM {told.json()['version']}" if told.is_success else "vLLM"
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return "vLLM"
    finally:
        transport.close()


def labels(what: Candidate, place: Place) -> list[str]:
    """Those of its rows at a place."""
    return [_label(what, adapters, place) for adapters in _without_and_with(what)]


def _without_and_with(what: Candidate) -> list[Mapping[str, str]]:
    return [{}, what.experts] if what.experts else [{}]


def _label(what: Candidate, adapters: Mapping[str, str], place: Place) -> str:
    return f"{what.name}{' + experts' if adapters else ''}, {place}"


def _student(
    what: Candidate, adapters: Mapping[str, str], place: Place, precision: str, engine: str, command: str
) -> Student:
    folder = None if what.base_url is not None else model_folder(what.model, allow_download=False)
    return Student(
        label=_label(what, adapters, place),
        place=place,
        base=None if folder is None else model_weights(folder),
        adapters={
            expert: adapter_weights(adapter) if Path(adapter).is_dir() else None for expert, adapter in adapters.items()
        },
        precision=precision,
        engine=engine,
        command=command,
    )
