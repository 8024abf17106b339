"""What a measurement was made on: the machine, and the versions of what ran."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Machine(BaseModel):
    """`cores` are those this process may use, `cpu` is the model's name, `gpus` those that torch sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cores: int
    cpu: str
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return ", ".join((f"{cores} of {self.cpu}", *self.gpus))


def this_machine() -> Machine:
    """The one that this runs on. GPUs are looked for where torch is installed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cores=cores, cpu=_cpu(), gpus=_gpus())


def versions(*packages: str) -> str:
    """`torch 2.13.0, peft 0.21.0`; a package that is missing is said to be."""
    return ", ".join(f"{name} {_version(name)}" for name in packages)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu(info: Path = Path("/proc/cpuinfo")) -> str:
    if info.is_file():  # Linux
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "an unknown processor"


def _gpus() -> tuple[str, ...]:
    if find_spec("torch") is None:
        return ()
    import torch

    return tuple(torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count()))
