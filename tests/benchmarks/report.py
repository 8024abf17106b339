"""The table of measured figures, of what `make bench` left: `python tests/benchmarks/report.py BENCH.json`.

Writes figures.json and report.md to `results/bench`. A figure that no bar holds has none.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from memlora_plugins.evaluation.report import Table
from memlora_plugins.files import write_whole

OUT = Path(__file__).parent / "results" / "bench"
COMMAND = "make bench-report"


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a benchmark, the last run of each where a miss was measured again, in the order they ran."""
    rows = {
        one["fullname"]: {"test": one["fullname"], **one["extra_info"]}
        for one in found["benchmarks"]
        if "what" in one["extra_info"]
    }
    return list(rows.values())


def write(found: dict[str, Any], out: Path) -> None:
    """Both files. Of the machine only its processor and its Python are told."""
    rows = figures(found)
    info = found["machine_info"]
    machine = {
        "cpu": info["cpu"].get("brand_raw", "unknown"),
        "cores": info["cpu"].get("count"),
        "date": found["datetime"][:10],
    }
    machine["python"] = info["python_version"]
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "figures.json", json.dumps({"command": COMMAND, **machine, "figures": rows}, indent=1) + "\n")
    table = Table(
        "Measured", ("what", "measured", "bar"), tuple((row["what"], row["measured"], row["bar"]) for row in rows)
    )
    head = (
        f"`{COMMAND}`, on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, {machine['date']}."
    )
    write_whole(out / "report.md", f"# What `make bench` measured\n\n{head}\n\n{table.markdown()}")


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), OUT)
