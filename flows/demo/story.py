"""`goldwax demo`: a year of real flights becomes fresh Silver and Gold tables.

1. *Events.* Write the change events of the year as an embedded event log, the last 100,000 held back.
2. *Backlog.* Run the flow over the log up to its end.
3. *Live.* Run the flow following the log, append what is held back at 20,000 events/s, wait until Gold shows all
   of it, stop the flow with SIGTERM and measure freshness from the lake.
4. *Result.* Check the tables against each other and print the Gold tables.

Every step asks the log or the lake what is there already and does the rest, so a demo that was interrupted anywhere,
or killed, is completed by the next one, and one that is complete is only shown again.
"""

import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import TextIO

import polars as pl

from flows import flights
from flows.commands.freshness import measure_freshness
from flows.demo.errors import DemoError
from flows.demo.events import EVENTS, RATE, LiveEvent, Sent, append, live_events, log_ends, send, write_backlog
from flows.demo.flow import WORKERS, FlowProcess, Standing, standing, watch
from flows.demo.lock import only_demo
from flows.kpi import Kpi
from flows.lake import Lake
from flows.settings import Settings
from storage.delta.positions import Positions
from storage.logs.event_log import EventLogTopic
from storage.logs.event_log_writer import EventLogWriter

FLIGHTS = 336_776
_SHOWN_ROWS = 10
_WARM_UP = 1_000  # live events that tell that the flow has started; they are not measured


@dataclass(frozen=True, slots=True)
class Demo:
    """Where the demo reads and writes, and the lock its flow inherits."""

    topic: EventLogTopic
    lake: Lake
    lock: TextIO


def run_demo() -> None:
    """Run the demo in the working directory. Raises DemoError, StorageError, ModuleNotFoundError."""
    signal.signal(signal.SIGTERM, _interrupt)
    settings = Settings.from_environment()
    topic, lake = flights.pipeline.silvers[0].open_topic(settings), flights.pipeline.lake_of(settings)
    if not isinstance(topic, EventLogTopic) or "://" in lake.root:
        raise DemoError(f"the demo needs its events and its lake on this machine, received {topic} and {lake.root}")
    with only_demo(topic.directory) as lock:
        demo = Demo(topic, lake, lock)
        before = standing(flights.pipeline, lake, log_ends(topic))
        _write_events(demo)
        _merge_backlog(demo)
        _send_live(demo)
        after = standing(flights.pipeline, lake, log_ends(topic))
        _show_result(demo, after, changed=after != before)


def _write_events(demo: Demo) -> None:
    ends = log_ends(demo.topic)
    place = demo.topic.directory / demo.topic.name
    if not ends:
        _say(f"events: writing the flights of 2013 as change events to {place}")
        began = time.monotonic()
        written = write_backlog(demo.topic)
        _say(f"events: {written:,} written in {time.monotonic() - began:.1f} s, the rest is held back for later")
    else:
        _say(f"events: {sum(ends.values()):,} are in {place} already")


def _merge_backlog(demo: Demo) -> None:
    ends = log_ends(demo.topic)
    before = _standing(demo, ends)
    total, began = sum(ends.values()), time.monotonic()
    _say(f"backlog: {total - before.merged:,} events to merge; running the flow with {WORKERS} workers")
    with FlowProcess(demo.lock, tail=False) as flow:
        for now in watch(flow, flights.pipeline, demo.lake, ends, every=1):
            if before.merged < total:
                _say(f"backlog: {now.merged:,} of {total:,} events merged")
    seconds = time.monotonic() - began
    after = _standing(demo, ends)
    if not after.shows(ends):
        raise DemoError(f"the flow ended with exit code 0 at {after}, expected {dict(ends)}. Run the demo again")
    merged = after.merged - before.merged
    if not merged:
        _say(f"backlog: nothing {'to do' if after == before else 'new, Gold has caught up'} ({seconds:.1f} s)")
        return
    _say(
        f"backlog: {merged:,} events merged in {seconds:.1f} s, {merged / seconds:,.0f} events/s "
        "(wall clock of the process, from its start to its end)"
    )


def _send_live(demo: Demo) -> None:
    events = live_events(demo.topic, log_ends(demo.topic))
    if not events:
        _say("live: nothing to do, every event is in the log")
        return
    with (
        EventLogWriter(demo.topic.directory, demo.topic.name, len(log_ends(demo.topic))) as writer,
        FlowProcess(demo.lock, tail=True) as flow,
    ):
        _say(f"live: starting the flow, {len(events):,} events to come")
        append(writer, events[:_WARM_UP])
        _await_gold(demo, flow)
        sent = _send_measured(writer, flow, events[_WARM_UP:])
        _await_gold(demo, flow)
        flow.stop()
    _say("live: the flow has stopped on SIGTERM with exit code 0")
    _show_freshness(demo, sent)


def _send_measured(writer: EventLogWriter, flow: FlowProcess, events: list[LiveEvent]) -> Sent | None:
    if not events:
        return None
    _say(f"live: {len(events):,} events follow at {RATE:,} events/s")
    told = time.monotonic()

    def tick(count: int) -> None:
        nonlocal told
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            _say(f"live: {count:,} of {len(events):,} events appended")
        if flow.ended(0):
            raise DemoError("the flow ended while events were appended. Run the demo again")

    return send(writer, events, tick)


def _await_gold(demo: Demo, flow: FlowProcess) -> None:
    ends = log_ends(demo.topic)
    if any(now.shows(ends) for now in watch(flow, flights.pipeline, demo.lake, ends, every=0.1)):
        return
    raise DemoError("the flow ended before Gold showed all events. Run the demo again")


def _show_freshness(demo: Demo, sent: Sent | None) -> None:
    if sent is None:
        return
    for kpi in flights.pipeline.kpis:
        found = measure_freshness(demo.lake, flights.pipeline.silvers[0].name, kpi.name, sent.since, sent.until)
        _say(
            f"freshness: {kpi.name}: p50 {found.p50:.0f} ms, p99 {found.p99:.0f} ms, max {found.max:.0f} ms over "
            f"{found.events:,} events at {sent.rate:,.0f} events/s (from appending an event to the Gold commit with it)"
        )
        if found.unmeasured:
            raise DemoError(f"{kpi.name}: {found.unmeasured:,} live events have no Gold commit. Please report this")


def _show_result(demo: Demo, now: Standing, *, changed: bool) -> None:
    silver = pl.scan_delta(demo.lake.silver(flights.pipeline.silvers[0].name))
    rows, *expected = (
        silver.select(
            pl.len(),
            pl.col("dep_time").count().alias("departures"),
            pl.col("cancelled_at").count().alias("cancellations"),
        )
        .collect()
        .row(0)
    )
    for kpi in flights.pipeline.kpis:
        table = pl.read_delta(demo.lake.gold(kpi.name))
        _show_table(kpi, table, demo.lake.gold(kpi.name))
        counted = [table["departures"].sum(), table["cancellations"].sum()]
        if counted != expected:
            raise DemoError(f"{kpi.name}: counts {counted}, but Silver holds {expected}. Please report this")
    if (rows, now.merged) != (FLIGHTS, EVENTS):
        raise DemoError(
            f"Silver holds {rows:,} flights from {now.merged:,} events, expected {FLIGHTS:,} from {EVENTS:,}. "
            "Please report this"
        )
    _say(f"\ntables: {demo.lake.root}/staging, {demo.lake.root}/silver, {demo.lake.root}/gold, as Delta tables")
    done = "" if changed else "; nothing was new"
    _say(
        f"demo: ok, {rows:,} flights in Silver from {now.merged:,} events, {expected[0]:,} departures and "
        f"{expected[1]:,} cancellations in both Gold tables{done}"
    )


def _show_table(kpi: Kpi, table: pl.DataFrame, uri: str) -> None:
    shown = [name for name in table.columns if not name.startswith("_")]
    first = table.select(shown).sort(*reversed(kpi.rollup().grain)).head(_SHOWN_ROWS)
    _say(f"\n{kpi.name}: {table.height:,} rows, the first {first.height} ({uri})")
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_cols=-1,
        tbl_rows=_SHOWN_ROWS,
        tbl_width_chars=200,
        float_precision=2,
    ):
        _say(str(first))


def _standing(demo: Demo, ends: Positions) -> Standing:
    return standing(flights.pipeline, demo.lake, ends)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command's output


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)
