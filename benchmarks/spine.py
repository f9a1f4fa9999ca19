"""The spine: events per second from a Kafka backlog to Gold, freshness at a steady rate, and memory over many keys.

Everything, the broker included, shares the machine's cores.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from confluent_kafka import Producer
from deltalake import DeltaTable

from benchmarks.orders import PARTITIONS, change_events
from flows.commands.freshness import measure_freshness
from flows.lake import Lake
from tests.kafka_broker import Broker
from tests.kafka_process import KafkaProcess

_RUNS = 3
_BACKLOG, _KEYS = 2_000_000, 100_000
_RATE, _WARM_UP, _SECONDS = 20_000, 6, 20  # after the warm-up every key is known
_WORKERS = 2
_MANY_EVENTS, _MANY_KEYS = 5_000_000, 1_000_000
_LATE_EVENTS, _LATE = 3_000_000, 0.05
_TICK = 0.02  # seconds between two bursts of the steady load


@contextmanager
def kafka() -> Iterator[Broker]:
    """Give a broker of our own."""
    with tempfile.TemporaryDirectory() as directory:
        process = KafkaProcess(Path(directory))
        process.create()
        process.start()
        try:
            yield Broker(f"127.0.0.1:{process.ports.plain}", process)
        finally:
            process.kill()


def run(*, quick: bool = False) -> None:
    """Print the tables of the spine."""
    scale = 10 if quick else 1
    with kafka() as broker:
        _throughput(broker, _BACKLOG // scale)
        _out_of_order(broker, _LATE_EVENTS // scale, _MANY_KEYS // scale)
        _freshness(broker, _SECONDS if not quick else 5)
        _memory(broker, _MANY_EVENTS // scale, _MANY_KEYS // scale)


def _throughput(broker: Broker, count: int) -> None:
    size = _fill(broker, "backlog", count, _KEYS)
    print(
        f"\nBacklog: {count:,} Debezium events of {size:.0f} bytes, {_KEYS:,} keys, {PARTITIONS} partitions, "
        f"{_WORKERS} workers, median of {_RUNS} runs (min to max)\n"
    )
    decode, whole = [], []
    for _ in range(_RUNS):
        decode.append(count / _timed(broker, "backlog", "decode_only"))
        whole.append(count / _timed(broker, "backlog", "flow"))
    for name, rates in (("consume + decode alone", decode), ("Kafka to Gold", whole)):
        print(f"  {name:<24} {statistics.median(rates):>10,.0f} events/s   ({min(rates):,.0f} to {max(rates):,.0f})")
    ratio = statistics.median(one / other for one, other in zip(whole, decode, strict=True))
    print(f"  {'share of decode alone':<24} {ratio:>10.0%}")


def _out_of_order(broker: Broker, count: int, keys: int) -> None:
    _fill(broker, "late", count, keys, _LATE)
    print(
        f"\nBacklog with {_LATE:.0%} of the updates out of order: {count:,} events, {keys:,} keys, "
        f"median of {_RUNS} runs (min to max)\n"
    )
    for name, history in (("SCD1, Kafka to Gold", ""), ("SCD2, Kafka to Gold", "scd2")):
        rates = [count / _timed(broker, "late", "flow", history) for _ in range(_RUNS)]
        print(f"  {name:<24} {statistics.median(rates):>10,.0f} events/s   ({min(rates):,.0f} to {max(rates):,.0f})")


def _freshness(broker: Broker, seconds: int) -> None:
    broker.create_topic("steady", PARTITIONS)
    with tempfile.TemporaryDirectory() as lake:
        process = _child(broker, "steady", "tailing", lake)
        load = pl.concat(change_events(_RATE * (_WARM_UP + seconds), _KEYS))
        _wait_for_gold(Path(lake))
        since = datetime.now(UTC) + timedelta(seconds=_WARM_UP)
        _send_steadily(broker, "steady", load)
        until = datetime.now(UTC)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        found = measure_freshness(Lake(lake), "orders", "revenue_by_country_hour", since, until)
    print(
        f"\nFreshness, Kafka timestamp to Gold commit, {found.events / seconds:,.0f} events/s for {seconds} s, "
        f"{_KEYS:,} keys\n"
    )
    print(
        f"  p50 {found.p50:,.0f} ms   p99 {found.p99:,.0f} ms   max {found.max:,.0f} ms   unmeasured {found.unmeasured}"
    )


def _memory(broker: Broker, count: int, keys: int) -> None:
    _fill(broker, "many", count, keys)
    print(f"\nMemory: {count:,} events, {keys:,} keys; resident megabytes of the process, highest up to that event\n")
    with tempfile.TemporaryDirectory() as lake:
        process = _child(broker, "many", "flow", lake)
        samples: list[tuple[int, float]] = []
        watching = threading.Thread(target=_watch, args=(process.pid, Path(lake), samples))
        watching.start()
        output, _ = process.communicate()
        watching.join()
    step = count // 5
    for end in range(step, count + 1, step):
        peak = max((rss for merged, rss in samples if merged <= end), default=0.0)
        print(f"  {end:>10,} events {peak:>8,.0f} MB")
    print(f"  {count / _seconds(output):,.0f} events/s")


def _fill(broker: Broker, topic: str, count: int, keys: int, late: float = 0.0) -> float:
    """Produce the load and return the mean size of a value in bytes."""
    broker.create_topic(topic, PARTITIONS)
    producer = Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 20, "queue.buffering.max.messages": 500_000}
    )
    size = 0.0
    for frame in change_events(count, keys, late):
        _produce(producer, topic, frame)
        size += float(frame["value"].bin.size().sum())
    producer.flush()
    return size / count


def _produce(producer: Producer, topic: str, frame: pl.DataFrame) -> None:
    for partition, key, value in frame.iter_rows():
        while True:
            try:
                producer.produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.1)
    producer.poll(0)


def _send_steadily(broker: Broker, topic: str, load: pl.DataFrame) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 2})
    burst, began = int(_RATE * _TICK), time.monotonic()
    for number, start in enumerate(range(0, load.height, burst)):
        time.sleep(max(0.0, began + number * _TICK - time.monotonic()))
        _produce(producer, topic, load[start : start + burst])
    producer.flush()


def _wait_for_gold(lake: Path) -> None:
    log = lake / "gold/revenue_by_country_hour/_delta_log"
    while not list(log.glob("*0.json")):
        time.sleep(0.2)


def _child(broker: Broker, topic: str, flow: str, lake: str, history: str = "") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "BENCH_TOPIC": topic,
        "BENCH_HISTORY": history,
        "GOLDWAX_LAKE": lake,
    }
    command = [sys.executable, "-m", "benchmarks.child", flow, str(_WORKERS)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _timed(broker: Broker, topic: str, flow: str, history: str = "") -> float:
    with tempfile.TemporaryDirectory() as lake:
        output, _ = _child(broker, topic, flow, lake, history).communicate()
    return _seconds(output)


def _seconds(output: str) -> float:
    return float(output.rpartition("seconds: ")[2])


def _watch(pid: int, lake: Path, samples: list[tuple[int, float]]) -> None:
    """Sample the resident memory of a process, and how many events its Silver table has merged, until it ends."""
    silver = lake / "silver/orders"
    while True:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        merged = _merged(silver)
        if pages == 0:
            return
        samples.append((merged, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
        time.sleep(0.2)


def _merged(silver: Path) -> int:
    if not (silver / "_delta_log").exists():
        return 0
    table = DeltaTable(str(silver))
    return sum(table.transaction_version(f"bench/many/{partition}") or 0 for partition in range(PARTITIONS))
