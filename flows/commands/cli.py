"""`goldwax`: the commands beside `python -m bytewax.run`, which runs a pipeline."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.commands.freshness import FreshnessError
from flows.commands.quarantine import QuarantineError
from flows.commands.quarantine_command import add_quarantine, quarantine_lines, take_positions
from flows.commands.rebuild import rebuild
from flows.commands.restaging import CannotRebuildError
from flows.commands.table_facts import COUNTS, TableFacts, table_facts, table_places, table_version
from flows.demo.errors import DemoError
from flows.demo.story import run_demo
from flows.pipeline import Pipeline
from flows.reading.snapshot_step import PARTITION
from flows.settings import Settings
from flows.silver import Silver
from flows.sources import schemas_of
from operators.schema import DeclarationError, did_you_mean
from storage.delta.maintenance import Maintenance
from storage.delta.table import Table
from storage.errors import StorageError

_INTERRUPTED = 130


class UsageError(Exception):
    """What was asked for is not there; the message says what is expected."""


_TOLD = (
    UsageError,
    DeclarationError,
    QuarantineError,
    CannotRebuildError,
    DemoError,
    FreshnessError,
    StorageError,
    ModuleNotFoundError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code of the process: 0, 1 for an error with a message, 130 for Ctrl-C."""
    options = _parsed(arguments)
    try:
        match options.command:
            case "demo":
                run_demo()
            case "maintain":
                _maintain(options.module)
            case "quarantine":
                _quarantine(options)
            case "rebuild":
                _rebuild(options.module, options.table)
            case _:
                _print_tables(options.module)
    except _TOLD as error:
        return _complain(f"{options.command}: {error}", 1)
    except KeyboardInterrupt:
        return _complain(f"{options.command}: interrupted; the next run goes on from here", _INTERRUPTED)
    return 0


def load_pipeline(module: str) -> Pipeline:
    """Return the attribute `pipeline` of a module, found as `python -m` would. Raises UsageError."""
    if module.endswith(".py") or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(
            f"received {module!r}, expected a module as Python imports it, such as flows.flights, without a path or .py"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), "pipeline", None)
    except Exception as error:
        raise UsageError(f"cannot import {module!r}: {_import_problem(module, error)}") from error
    if not isinstance(found, Pipeline):
        raise UsageError(f"{module}: expected an attribute `pipeline = Pipeline(…)`, found {type(found).__name__}")
    return found


def _import_problem(module: str, error: Exception) -> str:
    """Say whether the module is not there, or what it raised."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return (
            f"{error}. Expected a module as Python imports it, such as flows.flights; run the command where the "
            "module is"
        )
    return f"{type(error).__name__}: {error}. python -c 'import {module}' says where"


def _print_tables(module: str) -> None:
    pipeline = load_pipeline(module)
    lake = pipeline.lake_of(Settings.from_environment())
    found = [(place, table_facts(place)) for place in table_places(pipeline, lake)]
    if not any(facts for _, facts in found):
        raise UsageError(
            f"{lake.root}: no table of pipeline {pipeline.name!r} is here. Run it first "
            f"(python -m bytewax.run {module}), or set GOLDWAX_LAKE"
        )
    for place, facts in found:
        _say(f"{place.layer} {place.name}: {_described(facts) if facts else 'not there yet'}")
        _say(f"    {place.uri if '://' in place.uri else Path(place.uri).resolve()}")


def _maintain(module: str) -> None:
    pipeline = load_pipeline(module)
    lake = pipeline.lake_of(Settings.from_environment())
    for place in table_places(pipeline, lake):
        if table_version(place.uri) < 0:
            _say(f"{place.layer} {place.name}: not there yet")
            continue
        table = Table(place.uri)
        done = Maintenance(table, table, lake.retention).run()
        _say(
            f"{place.layer} {place.name}: {done.files_before} data files are now {done.files}; "
            f"{done.removed} files that no version of the last {lake.retention} needs are gone"
        )


def _quarantine(options: argparse.Namespace) -> None:
    pipeline = load_pipeline(options.module)
    for line in quarantine_lines(options, pipeline, pipeline.lake_of(Settings.from_environment())):
        _say(line)


def _rebuild(module: str, name: str) -> None:
    pipeline = load_pipeline(module)
    silver = _silver_named(pipeline, name)
    settings = Settings.from_environment()
    lake = pipeline.lake_of(settings)
    done = rebuild(silver, lake, pipeline.name, _say, schemas_of(silver.format, settings))
    if done is None:
        _say(f"silver {name}: not there yet; the pipeline makes it from staging when it runs")
        return
    _say(
        f"silver {name}: version {done.version} has {done.rows:,} rows made anew; versions before it stay readable for "
        f"{lake.retention}. Start the pipeline again: it goes on from here, and makes Gold tables over it anew"
    )


def _silver_named(pipeline: Pipeline, name: str) -> Silver:
    silvers = {silver.name: silver for silver in pipeline.silvers}
    if name in {kpi.name for kpi in pipeline.kpis}:
        raise UsageError(
            f"{name!r} is a Kpi, which the pipeline makes anew by itself when its declaration or its Silver table is "
            f"another one; expected a Silver table: {', '.join(silvers)}"
        )
    if name not in silvers:
        raise UsageError(
            f"pipeline {pipeline.name!r} has no table {name!r}; expected one of: {', '.join(silvers)}."
            f"{did_you_mean(name, silvers)}"
        )
    return silvers[name]


def _described(facts: TableFacts) -> str:
    lines = [f"version {facts.version}, {facts.rows:,} rows"]
    if facts.totals:
        lines.append(", ".join(f"{name} {facts.totals[name]:,}" for name in COUNTS if name in facts.totals))
    if facts.unmet:
        lines.append("not met: " + ", ".join(f"{name} {count:,}" for name, count in sorted(facts.unmet.items())))
    if facts.positions:
        lines.append("at " + ", ".join(f"{_input(name)} {end:,}" for name, end in sorted(facts.positions.items())))
    if facts.taken:
        lines.append(facts.taken)
    return "\n    ".join(lines)


def _input(name: str) -> str:
    """Return the name of a position as people read it."""
    topic, _, partition = name.rpartition("/")
    return f"{topic} (snapshots)" if partition == str(PARTITION) else name


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if unknown := take_positions(options, left):
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="goldwax", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="a year of flights becomes fresh Silver and Gold tables under demo-data/")
    tables = commands.add_parser("tables", help="the tables of a pipeline: versions, rows, positions, what was read")
    maintain = commands.add_parser("maintain", help="compact the tables of a pipeline and remove expired files, once")
    anew = commands.add_parser("rebuild", help="make a Silver table anew from staging, as it is declared now")
    for each in (tables, maintain, anew):
        each.add_argument("module", metavar="MODULE", help="the module that declares `pipeline`, such as flows.flights")
    anew.add_argument("table", metavar="TABLE", help="the name of the Silver table")
    add_quarantine(commands)
    return parser


def _complain(message: str, code: int) -> int:
    print(f"goldwax {message}", file=sys.stderr, flush=True)  # noqa: T201 - a command's error
    return code


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command's output


if __name__ == "__main__":
    sys.exit(main())
