"""What is measured: each function takes the bench and a library's name and returns plain figures.

The wall clock is the worker's own, around the library's call; what the model server took is known from the server and
can be taken off, as both are on one machine.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lines
from bench import (
    HERE,
    Bench,
    FailedError,
    Measure,
    NotOfferedError,
    OverTheLimitError,
    Span,
    Worker,
    apart,
    environment,
)
from installed import size as installed_size
from installed import versions
from replies import WAYS

IMPORTS = {
    "mem0": "from mem0 import Memory",
    "langmem": "from langmem import create_memory_store_manager",
    "llama-index": "from llama_index.core.memory import FactExtractionMemoryBlock, Memory, VectorMemoryBlock",
    "memlora": "from memlora_plugins import Memory",
}
ADD_DELAY, CONCURRENT_DELAY = 0.2, 0.5
"""Seconds that the fake model takes for a reply, where adds are timed one by one and many at once."""
FILL = 6
"""How many limits the filling may take: it is no measure, only what some of them need."""
LIMIT = 10  # what a search asks for


def named(sizes: Sequence[int]) -> dict[str, Measure]:
    """Every measure by name, in the order they are done: quick ones first."""
    return {
        "install": install,
        "import": imports,
        "exit": exits,
        "tokens": tokens,
        "malformed": malformed,
        "duplicates": duplicates,
        "erase": erase,
        "concurrent": concurrent,
        **{f"size-{size}": partial(at_size, size) for size in sizes},
    }


def install(bench: Bench, library: str) -> dict[str, Any]:
    """MB and packages, in all and of the store alone; the versions that matter, and the set-up."""
    found: dict[str, Any] = installed_size(bench.pythons[library], library)
    if library == "memlora" and (local := bench.pythons.get("memlora-local")):
        found["local"] = installed_size(local, library)
    with bench.worker(library) as worker:
        found["notes"] = worker.notes
    return {**found, "versions": versions(bench.pythons[library], library)}


def imports(bench: Bench, library: str) -> dict[str, Any]:
    """Seconds of the import alone, and from the start of a process until a first search in an empty memory is done."""
    program = f"import time, guard; guard.cut('/dev/null'); start = time.perf_counter(); {IMPORTS[library]}"
    program += "; print(time.perf_counter() - start)"
    with TemporaryDirectory(prefix="peers-") as folder:
        env = environment(Path(folder), as_shipped=True) | {"PYTHONPATH": str(HERE)}

        def once() -> float:
            command = [bench.pythons[library], "-c", program]  # in a folder that holds no package of that name
            try:
                done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=bench.limit)
            except subprocess.TimeoutExpired:
                raise OverTheLimitError from None
            if done.returncode:
                raise FailedError(done.stderr.strip().splitlines()[-1])
            return float(done.stdout.split()[-1])

        once()
        seconds = [once() for _ in range(bench.scale.imports)]
    ready: list[float] = []
    for _ in range(bench.scale.imports):
        started = time.time()
        with bench.worker(library) as worker:
            worker.call("search", user="ana", text="kayak", limit=LIMIT)
            ready.append(time.time() - started)
    return {"seconds": statistics.median(seconds), "ready_seconds": statistics.median(ready)}


def exits(bench: Bench, library: str) -> dict[str, Any]:
    """Seconds to the end of the process, with the network cut and telemetry as it ships; and who was asked for."""
    bench.model.set()
    hosts: Counter[str] = Counter()
    found: dict[str, Any] = {}
    for ending in ("closed", "left open"):
        seconds: list[float] = []
        try:
            for _ in range(bench.scale.exits):
                with bench.worker(library, as_shipped=True) as worker:
                    worker.call("add", user="ana", said=lines.CONVERSATION[0][0])
                    worker.call("search", user="ana", text="Where do I live?", limit=LIMIT)
                    if ending == "closed":
                        worker.call("close")
                    seconds.append(worker.exit())
                    hosts.update(worker.foreign())
        except NotOfferedError:
            continue
        found[ending] = statistics.median(seconds)
    return {**found, "hosts": dict(hosts), "runs": len(found) * bench.scale.exits}


def tokens(bench: Bench, library: str) -> dict[str, Any]:
    """Input tokens and model calls of each add of a short conversation, in the memory of one person."""
    with bench.worker(library, embedder=bench.scale.embedder) as worker:
        per_add: list[int] = []
        texts: list[int] = []
        calls = 0
        for said, answer in lines.CONVERSATION:
            bench.model.set()
            worker.call("add", user="ana", said=said, answer=answer)
            stats = bench.model.stats()
            per_add.append(sum(stats["tokens"]))
            texts.append(sum(stats["text_tokens"]))
            calls += len(stats["tokens"])
    asked = sum(map(bool, per_add))  # where the first add only queues, it asks nothing
    return {"per_add": sum(per_add) / asked, "text_per_add": sum(texts) / asked, "calls_per_add": calls / asked,
            "adds": asked, "each": per_add}  # fmt: skip


def malformed(bench: Bench, library: str) -> dict[str, Any]:
    """Way by way: did the add raise, is what was said found, is it found once the model is well again?"""
    found: dict[str, Any] = {}
    with bench.worker(library, embedder=bench.scale.embedder) as worker:
        for number, way in enumerate(WAYS):
            found[way] = _malformed(bench, worker, way, f"person-{number}", f"Marlin{number}")
        skipped = {"unknown id"} & set(worker.notes)
    return {"ways": {way: None if way in skipped else result for way, result in found.items()}}


def _malformed(bench: Bench, worker: Worker, way: str, user: str, mark: str) -> dict[str, Any]:
    said = f"I keep a blue kayak called {mark} in Porto."
    if way == "unknown id":
        bench.model.set()
        worker.call("add", user=user, said=f"I keep a blue kayak called Old{mark} in Porto.", answer="I see.")
        worker.call("settle", user=user)
        said = f"My blue kayak in Porto is called {mark} by now."
    before = _facts(worker.call("rows", user=user))
    bench.model.set(malformed=way)
    raised = None
    try:
        worker.call("add", user=user, said=said, answer="I see.")
        worker.call("settle", user=user)
    except FailedError as error:
        raised = str(error)
    result: dict[str, Any] = {
        "raised": raised,
        "found": _finds(worker, user, mark),
        "calls": len(bench.model.stats()["tokens"]),
    }
    result["rows"] = worker.call("rows", user=user)
    result["distilled"] = _facts(result["rows"]) > before
    bench.model.set()
    try:
        worker.call("flush")
        result["again_by"] = "flush"
    except NotOfferedError:
        result["again_by"] = "adding again"
        worker.call("add", user=user, said=said, answer="I see.")
        worker.call("settle", user=user)
    result["found_after"], result["rows_after"] = _finds(worker, user, mark), worker.call("rows", user=user)
    result["distilled_after"] = _facts(result["rows_after"]) > before
    if way == "unknown id":
        result["old_found"] = _finds(worker, user, f"Old{mark}")
    return result


def _facts(rows: dict[str, int]) -> int:
    return rows["facts"] if "facts" in rows else rows["memories"]


def _finds(worker: Worker, user: str, mark: str) -> bool:
    found = worker.call("search", user=user, text="What is my blue kayak in Porto called?", limit=LIMIT)
    return any(re.search(rf"\b{mark}\b", text) for text in found)


def duplicates(bench: Bench, library: str) -> dict[str, Any]:
    """The same words added many times at once for one person, as impatient clients do: what is there afterwards?"""
    said = "I keep a blue kayak called Marlin in Porto."
    with bench.worker(library, embedder=bench.scale.embedder, several=True) as worker:
        worker.call("add", user="ana", said=lines.CONVERSATION[0][0])
        before = worker.call("rows", user="ana")
        bench.model.set(delay=0.1)
        done = worker.call("concurrent", what=[["ana", said]] * bench.scale.identical)
        texts = worker.call("search", user="ana", text="What is my blue kayak called?", limit=50)
        after = worker.call("rows", user="ana")
        calls = len(bench.model.stats()["tokens"])
    shown = sum(text.count("Marlin") for text in texts)
    new = {store: after[store] - before[store] for store in after}
    return {"adds": bench.scale.identical, "new": new, "shown": shown, "errors": done["errors"], "calls": calls}


def erase(bench: Bench, library: str) -> dict[str, Any]:
    """Rows of one person before and after erasing it, and how many of its lines can still be read in the files."""
    user, other = "erased-person", "kept-person"
    with bench.worker(library, embedder=bench.scale.embedder) as worker:
        bench.model.set()
        for number in range(bench.scale.erased):
            secret = f"Number {number} of {user} is secret{number:03d}x."
            worker.call("add", user=user, said=secret, answer="I see.")
        worker.call("add", user=other, said=f"I am {other} and like tea.", answer="I see.")
        for one in (user, other):
            worker.call("settle", user=one)
        before, kept_before = worker.call("rows", user=user), worker.call("rows", user=other)
        readable_before = len(_readable(worker))
        at_once = None
        with suppress(NotOfferedError):
            worker.call("erase_at_once", user=user)
            at_once = worker.call("rows", user=user)
        worker.call("erase", user=user)
        after, kept_after = worker.call("rows", user=user), worker.call("rows", user=other)
        texts = worker.call("search", user=user, text=f"the secret numbers of {user}", limit=50)
        with suppress(NotOfferedError):
            worker.call("close")
        worker.exit()
        readable = len(_readable(worker))
    return {
        "by": worker.notes["erase"],
        "before": before,
        "after_one_call": at_once,
        "after": after,
        "found_after": any("secret" in text for text in texts),
        "readable_before": readable_before,
        "readable": readable,
        "said": bench.scale.erased,
        "others_untouched": kept_before == kept_after,
    }


def _readable(worker: Worker) -> set[bytes]:
    """The secrets that stand in the memory's files as they are."""
    files = [file for file in (worker.folder / "memory").rglob("*") if file.is_file()]
    return {secret for file in files for secret in re.findall(rb"secret\d\d\dx", file.read_bytes())}


def concurrent(bench: Bench, library: str) -> dict[str, Any]:
    """One add for each of many people at once, each of whom is known already; the model takes 0.5 s a reply."""
    people = [f"person-{number}" for number in range(bench.scale.concurrent)]
    with bench.worker(library, several=True) as worker:
        bench.model.set()
        worker.call("adds", what=[[one, "I keep a blue kayak in Porto."] for one in people], budget=bench.limit)
        bench.model.set(delay=CONCURRENT_DELAY)
        told = [[one, f"I keep a blue kayak in Lisbon, says {one}."] for one in people]
        done = worker.call("concurrent", what=told)
        stats = bench.model.stats()
        for one in people:
            worker.call("settle", user=one)
        found = sum(
            any(
                f"says {one}" in text
                for text in worker.call("search", user=one, text="I keep a blue kayak in Lisbon.", limit=LIMIT)
            )
            for one in people
        )
    start, end = done["span"]
    return {"seconds": end - start, "adds": len(people), "errors": done["errors"], "found": found,
            "calls": len(stats["tokens"]), "most_at_once": stats["most_at_once"]}  # fmt: skip


def at_size(size: int, bench: Bench, library: str) -> dict[str, Any]:
    """Search by 100 people in turn, and adds of one of them, in a memory of so many spread over all of them."""
    scale = bench.scale
    with bench.worker(library) as worker:
        bench.model.set()
        file = worker.folder / "fill.jsonl"
        with file.open("w") as rows:
            rows.writelines(json.dumps(row) + "\n" for row in lines.memories(size))
        fill_seconds = worker.call("fill", file=str(file), times=FILL)
        asked = [[lines.user(number), text] for number, text in enumerate(lines.fresh(1, scale.searches + 3))]
        worker.call("searches", what=asked[:3], limit=LIMIT, budget=bench.limit / 3)
        bench.model.set()
        searches = worker.call("searches", what=asked[3:], limit=LIMIT, budget=bench.limit / 3)
        busy = bench.model.stats()["spans"]
        said = [[lines.user(0), text] for text in lines.fresh(2, scale.adds + 3)]
        worker.call("adds", what=said[:3], budget=bench.limit / 3)
        bench.model.set(delay=ADD_DELAY)
        adds = worker.call("adds", what=said[3:], budget=bench.limit / 3)
        stats = bench.model.stats()
        warns = worker.call("warns", stored=size)
    per_add = {
        "calls_per_add": len(stats["tokens"]) / len(adds),
        "tokens_per_add": sum(stats["tokens"]) / len(adds),
        "text_tokens_per_add": sum(stats["text_tokens"]) / len(adds),
    }
    return {
        "fill_seconds": fill_seconds,
        "search": _latency(searches, busy),
        "add": {**_latency(adds, stats["spans"]), **per_add},
        "warns": warns,
    }


def _latency(spans: Sequence[Span], busy: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Milliseconds, with what the server took and without."""
    whole = [end - start for start, end in spans]
    own = apart(spans, [(start, end) for _, start, end in busy])
    told = {f"p{at}_ms": _at(whole, at) for at in (50, 95)} | {f"own_p{at}_ms": _at(own, at) for at in (50, 95)}
    return {**told, "number": len(spans)}


def _at(seconds: Sequence[float], percent: int) -> float:
    if len(seconds) == 1:
        return seconds[0] * 1000
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000
