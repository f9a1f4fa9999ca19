"""Runs the engine as a user does, as a process of its own, and reads the lake it leaves behind."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from storage.delta.owned_table import LEDGER
from tests.orders import KPIS, PARTITIONS, SCHEMA

_ROOT = Path(__file__).parents[1]
_TIMEOUT = 120
TABLES = ("staging/orders", "quarantine/orders", "silver/orders", *(f"gold/{kpi}" for kpi in KPIS))


@dataclass
class Engine:
    """How to run the pipeline of `module`: with these settings and arguments of the engine."""

    lake: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    module: str = "tests.orders"

    def start(
        self, *, tail: bool = False, arguments: tuple[str, ...] = (), **environment: str
    ) -> "subprocess.Popen[str]":
        """Start it in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "bytewax.run", f"{self.module}:flow({tail})", *self.arguments, *arguments],
            cwd=_ROOT,
            env={
                **os.environ,
                "GOLDWAX_LAKE": str(self.lake),
                "RUST_BACKTRACE": "0",
                **self.environment,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, **environment: str) -> str:
        """Run it to the end of its topics and return what it printed."""
        process = self.start(tail=False, arguments=(), **environment)
        output, _ = process.communicate(timeout=_TIMEOUT)
        assert process.returncode == 0, output
        return output


def with_recovery(directory: Path) -> tuple[str, ...]:
    """Make a new recovery directory and return the arguments that use it, with an epoch a second."""
    if not directory.exists():
        directory.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "bytewax.recovery", directory, "2"], check=True)
    return ("-r", str(directory), "-s", "1", "-b", "0")


def forget_recovery(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """Return a port that nobody listens on, outside the range that outgoing connections are given theirs from."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def tables(lake: Path) -> dict[str, pl.DataFrame]:
    """Return every table of the lake, all columns, in an order of its rows that does not depend on its files.

    Of learned columns, staged events do not say whether they carry them: that depends on the order of partitions.
    """
    found = {name: _sorted(pl.scan_delta(str(lake / name)).collect()) for name in TABLES}
    declared = pl.col("_unavailable").list.eval(pl.element().filter(pl.element().is_in([*SCHEMA])))
    said = pl.when(declared.list.len() > 0).then(declared).alias("_unavailable")
    return {**found, "staging/orders": found["staging/orders"].with_columns(said)}


def assert_same_tables(found: Mapping[str, pl.DataFrame], expected: Mapping[str, pl.DataFrame]) -> None:
    for name in TABLES:
        assert found[name].equals(expected[name]), f"{name}:\n{found[name]}\n{expected[name]}"


def assert_every_record_once(lake: Path, ends: Mapping[int, int]) -> None:
    """Prove from the Delta logs that staging and Silver read each offset below `ends` exactly once, and kept count."""
    staged = pl.scan_delta(str(lake / "staging/orders")).select("_partition", "_offset").collect()
    for partition, end in ends.items():
        offsets = staged.filter(pl.col("_partition") == partition)["_offset"].sort()
        assert offsets.to_list() == list(range(end)), f"partition {partition}"
    for name in ("staging/orders", "silver/orders"):
        ledgers = _ledgers(lake / name)
        assert sum(ledger["read"] for ledger in ledgers) == sum(ends.values()), name
        for partition, end in ends.items():
            ranges = sorted(r for ledger in ledgers if (r := ledger["ranges"].get(_id(ledger, partition))))
            assert [0, *(stop for _, stop in ranges)] == [*(start for start, _ in ranges), end], (name, partition)
    for ledger in _ledgers(lake / "silver/orders"):
        assert ledger["read"] == sum(count for fate, count in ledger.items() if fate not in ("ranges", "read"))


def event_log_ends(directory: Path) -> dict[int, int]:
    return {partition: _lines(directory / f"{partition}-0.jsonl") for partition in range(PARTITIONS)}


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _id(ledger: Mapping[str, Mapping[str, object]], partition: int) -> str:
    topics = [name for name in ledger["ranges"] if not name.startswith("retry/")]
    return next((name for name in topics if name.endswith(f"/{partition}")), "")


def _ledgers(table: Path) -> list[dict]:  # type: ignore[type-arg]
    history = DeltaTable(str(table)).history()
    return [json.loads(commit[LEDGER]) for commit in history if "ranges" in commit.get(LEDGER, "")]


def _sorted(rows: pl.DataFrame) -> pl.DataFrame:
    keys = [name for name in rows.columns if rows[name].dtype not in (pl.List(pl.String), pl.Binary)]
    return rows.sort(keys, nulls_last=True)
