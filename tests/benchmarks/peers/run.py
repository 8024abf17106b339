"""mem0, LangMem, LlamaIndex's Memory and memlora_plugins doing the same work against one model server and embedder.

    .venv/bin/python tests/benchmarks/peers/run.py                      # fill the gaps in the results, write the report
    .venv/bin/python tests/benchmarks/peers/run.py --again size-1000    # measure this one again, for every library
    .venv/bin/python tests/benchmarks/peers/run.py --library mem0 --again exit

Every library runs in a virtual environment of its own (`make bench-peers` makes them). Results are kept one by one, so
a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import SMALL, Bench, FailedError, Model, NotOfferedError, OverTheLimitError, Scale
from measures import named
from report import write

from memlora_plugins.files import write_whole

ROOT = Path(__file__).parents[3]
LIBRARIES = ("memlora", "mem0", "langmem", "llama-index")
SIZES = (1_000, 10_000, 100_000)


def main() -> int:
    asked = _arguments().parse_args()
    asked.library = asked.library or list(LIBRARIES)
    results = asked.results / "results.json"
    kept: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    pythons = {name: ROOT / f".venv-peer-{name}" / "bin" / "python" for name in (*LIBRARIES, "memlora-local")}
    pythons |= {name: Path(path).absolute() for name, _, path in (one.partition("=") for one in asked.interpreter)}
    missing = [name for name in asked.library if not pythons[name].is_file()]
    if missing:
        sys.stderr.write(f"No environment for {', '.join(missing)}: make bench-peers makes them.\n")
        return 2
    pythons = {name: path for name, path in pythons.items() if path.is_file()}
    measures = named(asked.sizes)
    wanted = {
        name: one for name, one in measures.items() if not asked.measure or name in {*asked.measure, *asked.again}
    }
    asked.results.mkdir(parents=True, exist_ok=True)
    with Model() as model:
        bench = Bench(model, pythons, SMALL if asked.small else Scale(), limit=asked.limit)
        for name, measure in wanted.items():
            for library in asked.library:
                if library in kept.get(name, {}) and name not in asked.again:
                    continue
                started = time.monotonic()
                outcome = _outcome(measure, bench, library)
                outcome |= {
                    "took_seconds": round(time.monotonic() - started, 1),
                    "when": datetime.now(UTC).isoformat(timespec="seconds"),
                    "machine": _machine(),
                    "load": round(os.getloadavg()[0], 1),
                    "commit": _commit(),
                }
                kept.setdefault(name, {})[library] = outcome
                write_whole(results, json.dumps(kept, indent=1) + "\n")
                sys.stdout.write(f"{name:14} {library:12} {_short(outcome)}\n")
                sys.stdout.flush()
    write(asked.results, kept, [name for name in measures if name in kept])
    sys.stdout.write(f"{asked.results / 'report.md'}\n")
    return 0


def _outcome(measure: Any, bench: Bench, library: str) -> dict[str, Any]:
    try:
        return {"value": measure(bench, library)}
    except OverTheLimitError:
        return {"over_seconds": bench.limit}
    except NotOfferedError as error:
        return {"not_offered": str(error)}
    except FailedError as error:
        return {"error": str(error)}


def _short(outcome: dict[str, Any]) -> str:
    told = json.dumps(next(iter(outcome.values())))
    return f"{outcome['took_seconds']:7.1f} s  {told[:160]}"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def _commit() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip()


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", choices=LIBRARIES, help="only this one; can be repeated")
    parser.add_argument("--measure", action="append", default=[], help="only this one; can be repeated")
    parser.add_argument("--again", action="append", default=[], help="measure this one again; can be repeated")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="stored memories")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that a step of a measure may take")
    parser.add_argument("--results", type=Path, default=ROOT / "tests" / "benchmarks" / "results" / "peers")
    parser.add_argument("--interpreter", action="append", default=[], metavar="LIBRARY=PATH", help="another Python")
    parser.add_argument("--small", action="store_true", help="few of everything, to try the harness")
    return parser


if __name__ == "__main__":
    sys.exit(main())
