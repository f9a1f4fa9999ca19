"""`goldwax quarantine`: look at records that could not become rows, and send them in again.

goldwax quarantine list MODULE [TABLE]
goldwax quarantine show MODULE TABLE POSITION
goldwax quarantine retry MODULE TABLE POSITION…      or --all
"""

import argparse
from collections.abc import Iterator

import polars as pl

from flows.commands.quarantine import Place, Quarantine, QuarantineError, without_raw
from flows.lake import Lake
from flows.pipeline import Pipeline
from operators.wording import clip

_NEWEST = 20
_GROUPS = 10
_SHOWN = 160  # characters of a reason


def add_quarantine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `goldwax`."""
    quarantine = commands.add_parser("quarantine", help="records that could not become rows: list, show, retry")
    actions = quarantine.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="how many there are, why, and the newest")
    shown = actions.add_parser("show", help="one record, raw, and why it is here")
    retry = actions.add_parser("retry", help="send records in again, to be read with the declaration as it is now")
    for each in (listed, shown, retry):
        each.add_argument("module", metavar="MODULE", help="the module that declares `pipeline`")
    listed.add_argument("table", metavar="TABLE", nargs="?", help="one Silver table; all, when left out")
    for each in (shown, retry):
        each.add_argument("table", metavar="TABLE", help="a Silver table")
    shown.add_argument("position", metavar="POSITION", help="topic/partition/offset, as `list` says it")
    said = "topic/partition/offset, as `list` says it"
    retry.add_argument("positions", metavar="POSITION", nargs="*", default=[], help=said)
    retry.add_argument("--all", action="store_true", help="every record whose last attempt failed")


def take_positions(options: argparse.Namespace, left: list[str]) -> list[str]:
    """Take positions that stand behind `--all`, where argparse looks for none, and return what else is left."""
    if not getattr(options, "all", False) or any(each.startswith("-") for each in left):
        return left
    options.positions = [*options.positions, *left]
    return []


def quarantine_lines(options: argparse.Namespace, pipeline: Pipeline, lake: Lake) -> Iterator[str]:
    """Do what the command says and yield what to print. Raises QuarantineError, StorageError."""
    if options.action == "list":
        for name in [options.table] if options.table else [silver.name for silver in pipeline.silvers]:
            yield from _listed(Quarantine(pipeline, lake, name))
    elif options.action == "show":
        yield from _shown(Quarantine(pipeline, lake, options.table), Place.parse(options.position))
    else:
        yield from _retried(Quarantine(pipeline, lake, options.table), options)


def _listed(quarantine: Quarantine) -> Iterator[str]:
    entries = quarantine.entries()
    if entries.is_empty():
        yield f"{quarantine.name}: nothing in quarantine"
        return
    yield f"{quarantine.name}: {_states(entries)}"
    left = entries.filter(pl.col("state") != "retried")
    kind = pl.col("reason").str.split(": received").list.first().alias("kind")
    groups = left.group_by("stage", kind).len().sort("len", "stage", "kind", descending=[True, False, False])
    for stage, reason, count in groups[:_GROUPS].rows():
        yield f"    {count:>9,}  {stage}: {_line(reason)}"
    if groups.height > _GROUPS:
        yield f"    {groups['len'][_GROUPS:].sum():>9,}  for {groups.height - _GROUPS:,} other reasons"
    if left.height:
        yield f"  the newest{f' {_NEWEST} of {left.height:,}' if left.height > _NEWEST else ''}:"
    for row in left[:_NEWEST].iter_rows(named=True):
        said = (
            _place(row),
            str(row["_changed_at"] or "no time"),
            row["state"],
            f"{row['stage']}: {_line(row['reason'])}",
        )
        yield f"    {'  '.join(said)}"


def _shown(quarantine: Quarantine, place: Place) -> Iterator[str]:
    attempts = quarantine.attempts(place)
    (state,) = quarantine.entries().filter(_topic=place.topic, _partition=place.partition, _offset=place.offset)[
        "state"
    ]
    last = attempts.row(-1, named=True)
    yield f"{place}: {state}"
    yield f"    time     {last['_changed_at'] or 'none'}"
    yield f"    key      {raw_text(last['key'])}"
    yield f"    value    {raw_text(last['value'])}"
    yield f"    headers  {printable(last['headers'] or 'none')}"
    for row in attempts.iter_rows(named=True):
        when = "first read" if row["_retried"] is None else f"request {row['_retried']}"
        yield f"    {when}: {row['stage']}: {printable(row['reason'] or '')}"


def _retried(quarantine: Quarantine, options: argparse.Namespace) -> Iterator[str]:
    if bool(options.positions) == options.all:
        raise QuarantineError("expected either positions (topic/partition/offset, as `list` says them) or --all")
    if options.all:
        entries = quarantine.entries().filter(state="quarantined")
        unknown = without_raw(entries)
        if unknown.height:
            yield f"{quarantine.name}: {unknown.height:,} are left out: their raw records are not known"
        entries = entries.join(unknown, on=["_topic", "_partition", "_offset"], how="anti")
    else:
        entries = quarantine.wanted([Place.parse(position) for position in options.positions])
    if entries.is_empty():
        yield f"{quarantine.name}: nothing to send in again"
        return
    for row in entries.filter(pl.col("state") != "quarantined").iter_rows(named=True):
        yield f"{_place(row)} is {row['state']} already; once more changes no row"
    numbers = quarantine.retry(entries)
    requests = f"request {numbers[0]}" if len(numbers) == 1 else f"requests {numbers[0]} to {numbers[-1]}"
    yield (
        f"{quarantine.name}: {entries.height:,} sent in again as {requests}; the pipeline reads them within seconds, "
        "or when it runs next"
    )


def _states(entries: pl.DataFrame) -> str:
    counts = dict(entries["state"].value_counts().rows())
    return ", ".join(f"{counts[state]:,} {state}" for state in ("quarantined", "waiting", "retried") if state in counts)


def _place(row: dict[str, object]) -> str:
    return f"{row['_topic']}/{row['_partition']}/{row['_offset']}"


def _line(reason: str) -> str:
    return printable(clip(reason, _SHOWN))


def raw_text(raw: bytes | None) -> str:
    r"""Return bytes as text, or as Python writes them where they are not all printable text.

    >>> print(raw_text(b'{"id": 1}'), raw_text(b"\xff{"), raw_text(None))
    {"id": 1} b'\xff{' NULL
    """
    if raw is None:
        return "NULL"
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return repr(raw)
    return text if text.isprintable() else repr(raw)


def printable(text: str) -> str:
    r"""Return text that does nothing to a terminal.

    >>> print(printable("a\tb\x1b[0m"))
    a\tb\x1b[0m
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
