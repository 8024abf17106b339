"""What a merge holds in memory: three models of 270 MB each, with a tensor of 210 MB, in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timed import TIMED, report

pytestmark = [*TIMED, pytest.mark.timeout(600)]

MODELS = 3
SHAPES = {"model.embed_tokens.weight": (51_200, 2048), "model.layers.0.mlp.up_proj.weight": (15_000, 2048)}
LARGEST = 2 * 51_200 * 2048
"""Bytes of the largest tensor as it is stored, in bfloat16; in float32 it takes twice as many."""

_MEASURED = """
import json, re, sys
from pathlib import Path
import torch
from memlora_plugins.memo.merging import merge

torch.set_num_threads(1)
base, out, method, *models = map(str, sys.argv[1:])
done = merge(Path(base), models, Path(out), method=method, density=0.3)
# not ru_maxrss: that remembers the process from which this one was started
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"peak": peak, "megabytes_per_second": done.megabytes_per_second, "seconds": done.seconds}))
"""


def write(folder: Path, *, seed: int) -> Path:
    """A model of two tensors, in bfloat16, that differ in each entry from seed to seed."""
    dice = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(generator=dice) for name, shape in SHAPES.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 2048}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """The base and the models."""
    place = tmp_path_factory.mktemp("merge")
    yield [write(place / f"m{seed}", seed=seed) for seed in range(1 + MODELS)]
    shutil.rmtree(place)  # 1.1 GB that pytest would keep


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_merge_in_little_memory(benchmark: Any, folders: list[Path], tmp_path: Path, method: str) -> None:
    base, *models = folders
    words = [str(base), str(tmp_path / "out"), method, *map(str, models)]

    def once() -> dict[str, float]:
        done = subprocess.run([sys.executable, "-c", _MEASURED, *words], capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    found = benchmark.pedantic(once, rounds=1)
    shutil.rmtree(tmp_path / "out")
    bar = (MODELS + 2) * LARGEST + 1e9
    report(
        benchmark,
        f"merge of {MODELS} models of 271 MB ({method}): peak memory; speed",
        f"{found['peak'] / 1e6:.0f} MB; {found['megabytes_per_second']:.0f} MB/s",
        f"≤ {bar / 1e6:,.0f} MB",
        merge_seconds=round(found["seconds"], 1),
    )
    assert found["peak"] <= bar
