"""The results as Markdown tables, each with the command that measures it again, and as one picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import LIMIT, SIZES
from replies import WAYS

from memlora_plugins.evaluation.plots import figure, save
from memlora_plugins.evaluation.report import Table
from memlora_plugins.files import write_whole

COMMAND = ".venv/bin/python tests/benchmarks/peers/run.py"
RULES = """\
Every library runs in a virtual environment of its own, in its documented local set-up with the endpoints replaced, and
does the same work against one server on loopback: a fake chat model, which takes a fixed time and answers each library
in the format it asks for with what the person said, word for word, as the fact; and one embedder, MiniLM
(all-MiniLM-L6-v2), or where speed is measured a hashing embedder of 384 numbers that costs next to nothing. Input
tokens are counted by one tokenizer for all, WordPiece of MiniLM: all that is sent, and the messages without the tools
and the JSON schemas that libraries give replies their form by. The network is cut, but for loopback; the hosts listed
are those that Python's socket module was asked for: what native code asks for is in no list.

- *own* milliseconds are those in which the server was at work on nothing: the library, its store and its HTTP client.
- Stored memories are spread over 100 people; each search is one person's, so it is filtered by person. Adds are one
  person's, one message each; the fake model takes 0.2 s a reply.
- Memories are brought in by each library's own way in bulk, without the model: one by one it would take hours. How
  long that takes is not compared.
- LlamaIndex's Memory distils a turn when its queue runs over, by default after 21,000 tokens; here its limit is set so
  low that each add distils the turn before. Facts are in its list, every turn is in its vector store as well.
- Filled memories hold what each library's add leaves behind where its way in bulk can write that; set-up says which.
- Erasing is told twice: after the one call there is for a person, and after everything that a library and its store
  offer for one, composed.
- mem0 is installed without its `nlp` and `extras`, as its documentation begins: no keyword search, no entities.
- memlora_plugins asks a plain model with its full prompts here; adapters trained for it are asked with short ones.
- mem0's AsyncMemory hands its calls to Python's default threads: as many at once as there are cores, and four.
- LlamaIndex's new rows from equal adds hold the turn before them as well: it is distilled when they come.
- Telemetry is off, but for import and exit, which are measured as the libraries ship.
- Install size tells the library, with what it and its clients for such endpoints require, from what only the store
  chosen for it here requires; a store that a library itself requires is part of it.
- "load": the load average of the last minute before a measure, and after it; the harness itself makes about 1.
- "not offered": the library has no such call. "over …": it took longer than a step may take."""
_Cell = Callable[[Mapping[str, Any]], str]
_COLOURS = {"memlora": "#1b7f5c", "mem0": "#c4552d", "langmem": "#3d6fb6", "llama-index": "#8a5fb0"}


def write(folder: Path, kept: Mapping[str, Any], *, same_tree: bool) -> None:
    """`report.md` and `peers.png` in `folder`. `same_tree`: memlora_plugins was measured as it is in this tree."""
    sizes = _sizes_in(kept)
    tables = [(overview(kept), ())]
    tables += [(make(kept[name]), (name,)) for name, make in _TABLES.items() if name in kept]
    filled = tuple(f"size-{size}" for size in sizes)
    if sizes:
        tables += [(_sizes(kept, sizes, what, cell), filled) for what, cell in _AT_SIZES.items()]
    parts = [f"# Memory libraries side by side\n\nCommand: `make bench-peers`, which ends in `{COMMAND}`.\n"]
    parts += [f"{_measured(kept, same_tree)} The command of each figure stands under its own table.\n\n{RULES}\n"]
    parts += ["![The same figures as a picture](peers.png)\n"]
    for table, names in tables:
        parts.append(table.markdown())
        if names:
            parts.append(f"Again: `{_command(kept, names)}`\n")
    write_whole(folder / "report.md", "\n".join(parts))
    _picture(folder / "peers.png", kept, sizes)


def _command(kept: Mapping[str, Any], names: Sequence[str]) -> str:
    """What measures these again, at the scale that they were measured at."""
    scale = next(iter(kept[names[0]].values()))["scale"]
    told = [COMMAND, *(["--small"] if scale["small"] else [])]
    told += [f"--limit {scale['limit']:g}"] if scale["limit"] != LIMIT else []
    if (sizes := [name[5:] for name in names if name.startswith("size-")]) and not {*map(int, sizes)} <= {*SIZES}:
        told.append(f"--sizes {' '.join(sizes)}")
    return " ".join([*told, *(f"--again {name}" for name in names)])


def _measured(kept: Mapping[str, Any], same_tree: bool) -> str:
    """When, where and what; a machine and a commit for all, or which there were."""
    outcomes = [outcome for measure in kept.values() for outcome in measure.values()]
    days = sorted({outcome["when"][:10] for outcome in outcomes})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    machines, commits, cuts = (sorted({one[what] for one in outcomes}) for what in ("machine", "commit", "network"))
    loads = [load for outcome in outcomes for load in (outcome["load"], outcome["load_after"])]
    codes = sorted({one["memlora"]["installed"].get("code", "none") for one in kept.values() if "memlora" in one})
    of_which = "the one" if same_tree else "NOT the one"
    told = f"memlora_plugins has the digest {', '.join(codes)}, {of_which} of the tree that wrote this."
    parts = [
        f"Measured {when} on {'; '.join(machines)}; the harness at {', '.join(commits)}.",
        *([told] if codes else []),
        f"The load average was {min(loads):g} to {max(loads):g}; each row tells it before the measure, and after.",
        f"The network was cut by {', '.join(cuts)}.",
    ]
    return " ".join(parts)


def overview(kept: Mapping[str, Any]) -> Table:
    """A column for each library, the figures that say most."""
    sizes = _sizes_in(kept)
    most = f"size-{sizes[-1]}" if sizes else ""
    stored = f"{sizes[-1]:,} stored" if sizes else ""
    columns: dict[str, tuple[str, _Cell]] = {
        **{
            f"search, {size:,} stored: own p50 ms": (
                f"size-{size}",
                lambda value: _number(value["search"]["own_p50_ms"]) + _warned(value),
            )
            for size in sizes
        },
        f"add, {stored}: p50 ms, with the model (own)": (
            most,
            lambda value: f"{_number(value['add']['p50_ms'])} ({_number(value['add']['own_p50_ms'])})",
        ),
        f"model calls per add, {stored}": (most, lambda value: _number(value["add"]["calls_per_add"])),
        f"input tokens per add, {stored}: all that is sent (without tools and schemas)": (
            most,
            lambda value: f"{_number(value['add']['tokens_per_add'])} ({_number(value['add']['text_tokens_per_add'])})",
        ),
        "32 adds at once, s": ("concurrent", _seconds_of_all),
        "found after a malformed reply: as a fact; as the turn alone": ("malformed", _kept),
        "16 equal adds at once: new rows; times shown by a search": (
            "duplicates",
            lambda value: f"{_rows(value['new'])}; {value['shown']}",
        ),
        "rows left of a person after the one call that erases": ("erase", _left),
        "exit, network cut, s": ("exit", lambda value: _number(value["left open"])),
        "import, s": ("import", lambda value: _number(value["seconds"])),
        "install, MB: library; its store besides": ("install", _megabytes),
    }
    libraries = _all(kept)
    rows = [
        (column, *(_told(kept[name], library, cell) for library in libraries))
        for column, (name, cell) in columns.items()
        if name in kept
    ]
    return Table("At a glance", ("what", *libraries), tuple(rows))


def _sizes_in(kept: Mapping[str, Any]) -> list[int]:
    return sorted(int(name[5:]) for name in kept if name.startswith("size-"))


def _load(outcome: Mapping[str, Any]) -> str:
    return f"{outcome['load']:.2f}, {outcome['load_after']:.2f}"


def _table(title: str, columns: Mapping[str, _Cell]) -> Callable[[Mapping[str, Any]], Table]:
    def make(measure: Mapping[str, Any]) -> Table:
        rows = [
            (library, *(_told(measure, library, cell) for cell in columns.values()), _load(outcome))
            for library, outcome in measure.items()
        ]
        return Table(title, ("library", *columns, "load"), tuple(rows))

    return make


def _sizes(kept: Mapping[str, Any], sizes: Sequence[int], title: str, cell: _Cell) -> Table:
    def loads(library: str) -> str:
        outcomes = [kept[f"size-{size}"].get(library) for size in sizes]
        return "; ".join(_load(outcome) if outcome else "-" for outcome in outcomes)

    rows = [
        (library, *(_told(kept[f"size-{size}"], library, cell) for size in sizes), loads(library))
        for library in _all(kept)
    ]
    return Table(title, ("library", *(f"{size:,}" for size in sizes), "load"), tuple(rows))


def _milliseconds(what: str) -> _Cell:
    """p50 / p95 with the server and, in brackets, own."""

    def cell(value: Mapping[str, Any]) -> str:
        found = value[what]
        whole = " / ".join(_number(found[f"p{at}_ms"]) for at in (50, 95))
        own = f"{whole} ({' / '.join(_number(found[f'own_p{at}_ms']) for at in (50, 95))})"
        return f"{own}; {value['warns']}" if value["warns"] else own

    return cell


_AT_SIZES: dict[str, _Cell] = {
    "Milliseconds of a search by stored memories: p50 / p95 (own)": _milliseconds("search"),
    "Milliseconds of an add by stored memories: p50 / p95 (own)": _milliseconds("add"),
    "Input tokens of an add by stored memories: all (without tools and schemas); model calls": lambda value: (
        f"{_number(value['add']['tokens_per_add'])} ({_number(value['add']['text_tokens_per_add'])}); "
        f"{_number(value['add']['calls_per_add'])}"
    ),
}


def _malformed(measure: Mapping[str, Any]) -> Table:
    """A row for each way; what became of what was said, then what trying again with a model that is well does."""
    libraries = list(measure)
    rows = []
    for way, meaning in WAYS.items():
        cells = [_told(measure, library, lambda value, way=way: _survived(value["ways"][way])) for library in libraries]
        rows.append((f"{way}: {meaning}", *cells))
    rows.append(
        (
            "found without trying again",
            *(_told(measure, one, _share) for one in libraries),
        )
    )
    rows.append(("not found, and nothing raised", *(_told(measure, one, _silent) for one in libraries)))
    rows.append(("load", *(_load(measure[one]) for one in libraries)))
    return Table("What survives a malformed reply", ("the model's reply", *libraries), tuple(rows))


def _survived(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "its replies hold no ids"
    raised = f"raises {result['raised'].partition(':')[0]}; " if result["raised"] else ""
    if result["found"] and result["distilled"]:
        return f"{raised}kept as a fact"
    again = result["again_by"] if result["distilled_after"] else f"not even {result['again_by']}"
    return f"{raised}{'kept as a turn' if result['found'] else 'not found'}, a fact after {again}"


def _share(value: Mapping[str, Any]) -> str:
    facts, turns, ways = _found(value)
    return f"{facts + turns} of {ways}"


def _found(value: Mapping[str, Any]) -> tuple[int, int, int]:
    """Ways of a malformed reply after which, without trying again, a fact is found; the turn alone; all ways."""
    results = [result for result in value["ways"].values() if result is not None]
    facts = sum(result["found"] and result["distilled"] for result in results)
    return facts, sum(result["found"] for result in results) - facts, len(results)


def _kept(value: Mapping[str, Any]) -> str:
    facts, turns, ways = _found(value)
    return f"{facts}; {turns} of {ways}"


def _silent(value: Mapping[str, Any]) -> str:
    results = [result for result in value["ways"].values() if result is not None]
    return str(sum(not result["found"] and not result["raised"] for result in results))


def _rows(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {store}" for store, count in rows.items())


def _left(value: Mapping[str, Any]) -> str:
    return "not offered" if value["after_one_call"] is None else _rows(value["after_one_call"])


def _warned(value: Mapping[str, Any]) -> str:
    return f" ({value['warns']})" if value["warns"] else ""


def _megabytes(value: Mapping[str, Any]) -> str:
    """The library with what it needs, then what only the store that was chosen for it needs."""
    return f"{_number(value['mb'] - value['store_mb'])}; {_number(value['store_mb']) if value['store_mb'] else '0'}"


def _errors(errors: Sequence[str]) -> str:
    return f"{len(errors)}: {errors[0]}" if errors else "0"


def _seconds_of_all(value: Mapping[str, Any]) -> str:
    return _number(value["seconds"]) + (f" ({len(value['errors'])} raised)" if value["errors"] else "")


def _hosts(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{host} ({count / value['runs']:.0f})" for host, count in value["hosts"].items()) or "none"


_TABLES: dict[str, Callable[[Mapping[str, Any]], Table]] = {
    "install": _table(
        "Set-up and size",
        {
            "versions": lambda value: ", ".join(f"{name} {version}" for name, version in value["versions"].items()),
            "set-up": lambda value: value["notes"]["setup"],
            "memories are": lambda value: value["notes"]["store"],
            "filled by": lambda value: value["notes"]["fill"],
            "packages: library; its store besides": lambda value: (
                f"{value['packages'] - value['store_packages']}; {value['store_packages']}"
            ),
            "MB: library; its store besides": lambda value: (
                _megabytes(value)
                + (f"; with model and MiniLM in process {_number(value['local']['mb'])}" if "local" in value else "")
            ),
        },
    ),
    "import": _table(
        "Seconds to import, and from the start of a process to a first search",
        {
            "import": lambda value: _number(value["seconds"]),
            "first search": lambda value: _number(value["ready_seconds"]),
        },
    ),
    "exit": _table(
        "Seconds to exit with the network cut, and the hosts that were asked for",
        {
            "left open": lambda value: _number(value["left open"]),
            "closed before": lambda value: _number(value["closed"]) if "closed" in value else "not offered",
            "hosts (attempts a run)": _hosts,
        },
    ),
    "tokens": _table(
        "Input tokens of an add: ten turns of one person, with the answers",
        {
            "all that is sent": lambda value: _number(value["per_add"]),
            "without tools and schemas": lambda value: _number(value["text_per_add"]),
            "first to last, all": lambda value: f"{next(filter(None, value['each']))} to {value['each'][-1]}",
            "model calls": lambda value: _number(value["calls_per_add"]),
        },
    ),
    "malformed": _malformed,
    "duplicates": _table(
        "16 adds of the same words at once, by a person that is known",
        {
            "new rows": lambda value: _rows(value["new"]),
            "times shown by a search": lambda value: str(value["shown"]),
            "errors": lambda value: _errors(value["errors"]),
            "model calls": lambda value: str(value["calls"]),
        },
    ),
    "erase": _table(
        "Rows of a person before and after erasing it",
        {
            "by": lambda value: value.get("by", ""),
            "before": lambda value: _rows(value["before"]),
            "after one call": _left,
            "after all there is": lambda value: _rows(value["after"]),
            "still found": lambda value: "yes" if value["found_after"] else "no",
            "lines readable in its files": lambda value: (
                f"{value['readable_before']} before, {value['readable']} after"
            ),
            "other people untouched": lambda value: "yes" if value["others_untouched"] else "no",
        },
    ),
    "concurrent": _table(
        "32 people add at once, the model takes 0.5 s a reply",
        {
            "seconds": lambda value: _number(value["seconds"]),
            "model calls": lambda value: str(value["calls"]),
            "most at once": lambda value: str(value["most_at_once"]),
            "found": lambda value: f"{value['found']} of {value['adds']}",
            "errors": lambda value: _errors(value["errors"]),
        },
    ),
}


def _told(measure: Mapping[str, Any], library: str, cell: _Cell) -> str:
    outcome = measure.get(library, {})
    if "value" in outcome:
        return cell(outcome["value"])
    if "over_seconds" in outcome:
        return f"over {outcome['over_seconds']:g} s"
    return "not offered" if "not_offered" in outcome else f"failed: {outcome['error']}" if outcome else "not measured"


def _number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _all(kept: Mapping[str, Any]) -> list[str]:
    return [library for library in _COLOURS if any(library in measure for measure in kept.values())]


def _picture(file: Path, kept: Mapping[str, Any], sizes: Sequence[int]) -> None:
    drawn = figure(12, 7)
    (search, add, adds), (tokens, survived, ends) = drawn.subplots(2, 3)
    for axes, what, title in ((search, "search", "a search"), (add, "add", "an add, without the model")):
        for library in _all(kept):
            known = {size: _value(kept, f"size-{size}", library) for size in sizes}
            points = {size: value[what]["own_p50_ms"] for size, value in known.items() if value}
            axes.plot(list(points), list(points.values()), marker="o", label=library, color=_COLOURS[library])
        axes.set(title=f"{title}: own p50 ms", xlabel="stored memories")
        if axes.lines and any(len(line.get_xdata()) for line in axes.lines):
            axes.set(xscale="log", yscale="log")
    search.legend()
    most = f"size-{sizes[-1]}" if sizes else ""
    bars: tuple[tuple[Any, str, str, Callable[[Any], float]], ...] = (
        (adds, "concurrent", "32 adds at once, s", lambda value: value["seconds"]),
        (tokens, most, f"input tokens per add{f', {sizes[-1]:,} stored' if sizes else ''}", _tokens),
        (survived, "malformed", "after a malformed reply, %: a fact; pale: its turn", lambda value: _percent(value)[0]),
        (ends, "exit", "exit with the network cut, s", lambda value: value["left open"]),
    )
    for axes, name, title, height in bars:
        known_here = {library: value for library in _all(kept) if (value := _value(kept, name, library))}
        heights = [height(value) for value in known_here.values()]
        colours = [_COLOURS[library] for library in known_here]
        made = axes.bar(list(known_here), heights, color=colours)
        if axes is survived:
            turns = [_percent(value)[1] for value in known_here.values()]
            axes.bar(list(known_here), turns, bottom=heights, color=colours, alpha=0.4)
        else:
            axes.bar_label(made, [_number(one) for one in heights])
        axes.set(title=title)
        axes.margins(y=0.12)
    save(drawn, file)


def _tokens(value: Mapping[str, Any]) -> float:
    return float(value["add"]["tokens_per_add"])


def _percent(value: Mapping[str, Any]) -> tuple[float, float]:
    facts, turns, ways = _found(value)
    return 100 * facts / ways, 100 * turns / ways


def _value(kept: Mapping[str, Any], name: str, library: str) -> Any:
    return kept.get(name, {}).get(library, {}).get("value")
