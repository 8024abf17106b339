"""mem0, LangMem, LlamaIndex's Memory and memlora_plugins doing the same work against one model server and embedder.

    .venv/bin/python tests/benchmarks/peers/run.py                      # fill the gaps in the results, write the report
    .venv/bin/python tests/benchmarks/peers/run.py --again size-1000    # measure this one again, for every library
    .venv/bin/python tests/benchmarks/peers/run.py --library mem0 --again exit
    .venv/bin/python tests/benchmarks/peers/run.py --publish            # and copy a whole report to the committed one

Every library runs in a virtual environment of its own (`make bench-peers` makes them). Results are kept one by one in
build/peers, so a run that was stopped goes on where it was. Outcomes of another machine, scale or installed package
are never mixed with these: --replace measures them again.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import guard
import installed
from bench import LIMIT, SIZES, SMALL, Bench, FailedError, Model, NotOfferedError, OverTheLimitError, Scale
from measures import named
from report import overview, write

from memlora_plugins.files import write_whole

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "tests" / "benchmarks" / "results" / "peers"
LIBRARIES = ("memlora", "mem0", "langmem", "llama-index")
CALM = 0.75 * (os.cpu_count() or 1)
"""The load average above which nothing is measured; a measure before it makes about 1 itself."""


class RefusedError(Exception):
    """Nothing is measured: the figures would mean less than they seem to."""


def main() -> int:
    asked = _asked()
    network = guard.isolate()
    asked.results.mkdir(parents=True, exist_ok=True)
    with (asked.results / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"Another run writes to {asked.results}: wait for it, or give --results.\n")
            return 2
        try:
            kept = _measure(asked, network)
            if asked.publish:
                _publish(asked.results, kept)
        except RefusedError as error:
            sys.stderr.write(f"{error}\n")
            return 2
    return 0


def _measure(asked: argparse.Namespace, network: str) -> dict[str, Any]:
    """Every outcome that is kept, the new ones among them; the report is written and told."""
    pythons = _pythons(asked)
    file = asked.results / "results.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    measures = named(asked.sizes)
    key = {"machine": _machine(), "scale": {"small": asked.small, "limit": asked.limit}}
    present = {library: _digest(python, library) for library, python in pythons.items() if library in LIBRARIES}
    kept = _fitting(kept, key, present, replace=asked.replace)
    wanted = {*asked.measure, *asked.again} or set(measures)
    with Model() as model:
        bench = Bench(model, pythons, SMALL if asked.small else Scale(), limit=asked.limit)
        for name in (name for name in measures if name in wanted):
            for library in asked.library:
                if library in kept.get(name, {}) and name not in asked.again:
                    continue
                load = _calm(asked.max_load, asked.patience)
                started = time.monotonic()
                outcome = _outcome(measures[name], bench, library)
                outcome |= {
                    "took_seconds": round(time.monotonic() - started, 1),
                    "when": datetime.now(UTC).isoformat(timespec="seconds"),
                    **key,
                    "installed": present[library],
                    "network": network,
                    "load": load,
                    "load_after": _load(),
                    "commit": _commit(),
                }
                kept.setdefault(name, {})[library] = outcome
                write_whole(file, json.dumps(kept, indent=1) + "\n")
                sys.stdout.write(f"{name:14} {library:12} {_short(outcome)}\n")
                sys.stdout.flush()
    write_whole(file, json.dumps(kept, indent=1) + "\n")
    kept = {name: kept[name] for name in sorted(kept, key=_order)}
    write(asked.results, kept, same_tree=_same_tree(kept))
    sys.stdout.write(f"{overview(kept).markdown()}\n{asked.results / 'report.md'}\n")
    return kept


def _pythons(asked: argparse.Namespace) -> dict[str, Path]:
    pythons = {name: ROOT / f".venv-peer-{name}" / "bin" / "python" for name in (*LIBRARIES, "memlora-local")}
    pythons |= {name: Path(path).absolute() for name, _, path in (one.partition("=") for one in asked.interpreter)}
    missing = [name for name in asked.library if not pythons[name].is_file()]
    if missing:
        raise RefusedError(f"No environment for {', '.join(missing)}: make bench-peers makes them.")
    return {name: path for name, path in pythons.items() if path.is_file()}


def _digest(python: Path, library: str) -> dict[str, str]:
    try:
        return installed.digest(python, library)
    except FailedError as error:
        return {"error": str(error)}


def _fitting(
    kept: Mapping[str, Any], key: Mapping[str, Any], present: Mapping[str, Any], *, replace: bool
) -> dict[str, Any]:
    """The outcomes of this machine and scale and of what is installed now; the others go, if `replace`.

    Raises:
        RefusedError: there are others.
    """
    strange: dict[str, list[str]] = {}
    fitting: dict[str, Any] = {}
    for name, measure in kept.items():
        for library, outcome in measure.items():
            differs = [what for what in key if outcome.get(what) != key[what]]
            if library in present and outcome.get("installed") != present[library]:
                differs.append("installed package")
            if differs:
                strange.setdefault(f"{library}: another {' and '.join(differs)}", []).append(name)
            else:
                fitting.setdefault(name, {})[library] = outcome
    if strange and not replace:
        told = "\n".join(f"  {what} ({', '.join(names)})" for what, names in strange.items())
        raise RefusedError(
            f"There are outcomes that these would be mixed with:\n{told}\n"
            "--replace measures them again; --results keeps them, and goes to another folder."
        )
    return fitting


def _calm(bound: float, patience: float) -> float:
    """The load average, once it is within `bound`.

    Raises:
        RefusedError: it was not for `patience` seconds.
    """
    until = time.monotonic() + patience
    while (load := _load()) > bound:
        if time.monotonic() >= until:
            raise RefusedError(
                f"The load average is {load:g}, over {bound:g}: something else is at work here. Wait for it, "
                "or --max-load measures regardless; the report tells the load of each figure."
            )
        time.sleep(min(5, patience))
    return load


def _outcome(measure: Any, bench: Bench, library: str) -> dict[str, Any]:
    try:
        return {"value": measure(bench, library)}
    except OverTheLimitError:
        return {"over_seconds": bench.limit}
    except NotOfferedError as error:
        return {"not_offered": str(error)}
    except FailedError as error:
        return {"error": str(error)}


def _publish(results: Path, kept: Mapping[str, Any]) -> None:
    """Copy the report to the folder that is committed.

    Raises:
        RefusedError: something was not measured, not in full, or of another tree.
    """
    gaps = [f"{name} of {one}" for name in named(SIZES) for one in LIBRARIES if one not in kept.get(name, {})]
    if gaps:
        raise RefusedError(f"Not published, not measured: {', '.join(gaps)}.")
    if any(one["scale"] != {"small": False, "limit": LIMIT} for measure in kept.values() for one in measure.values()):
        raise RefusedError("Not published: measured with --small or another --limit.")
    if not _same_tree(kept):
        raise RefusedError("Not published: the memlora_plugins that was measured is not this tree's.")
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "report.md", "peers.png"):
        shutil.copyfile(results / name, PUBLISHED / name)
    sys.stdout.write(f"{PUBLISHED / 'report.md'}\n")


def _same_tree(kept: Mapping[str, Any]) -> bool:
    """Whether the memlora_plugins that was measured is the one of this tree."""
    codes = {measure["memlora"]["installed"].get("code") for measure in kept.values() if "memlora" in measure}
    return codes <= {installed.of_folder(ROOT / "memlora_plugins")}


def _order(name: str) -> tuple[int, int]:
    names = list(named(()))
    return (names.index(name), 0) if name in names else (len(names), int(name.partition("-")[2]))


def _short(outcome: dict[str, Any]) -> str:
    told = json.dumps(next(iter(outcome.values())))
    return f"{outcome['took_seconds']:7.1f} s  {told[:160]}"


def _load() -> float:
    return round(os.getloadavg()[0], 2)


def _machine() -> str:
    cores, system = f"{os.cpu_count()} cores", f"{platform.system()}, Python {platform.python_version()}"
    return f"{cores}, {_processor() or platform.machine()}, {system}"


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines: Iterable[str] = file.read_text().splitlines() if file.is_file() else ()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    told = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip()


def _asked(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", action="append", choices=LIBRARIES, help="only this one; can be repeated")
    parser.add_argument("--measure", action="append", default=[], help="only this one; can be repeated")
    parser.add_argument("--again", action="append", default=[], help="this one, measured already or not; as --measure")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="stored memories")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that a step of a measure may take")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--replace", action="store_true", help="measure again what does not fit with the rest")
    parser.add_argument("--publish", action="store_true", help=f"copy the report to {PUBLISHED.relative_to(ROOT)}")
    parser.add_argument("--max-load", type=float, default=CALM, help="measure at a load average up to this")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for that")
    parser.add_argument("--interpreter", action="append", default=[], metavar="LIBRARY=PATH", help="another Python")
    parser.add_argument("--small", action="store_true", help="few of everything, to try the harness")
    asked = parser.parse_args(given)
    names = list(named(asked.sizes))
    unknown = [name for name in (*asked.measure, *asked.again) if name not in names]
    if unknown:
        parser.error(f"no measure is called {', '.join(unknown)}; there are {', '.join(names)}")
    asked.library = asked.library or list(LIBRARIES)
    return asked


if __name__ == "__main__":
    sys.exit(main())
