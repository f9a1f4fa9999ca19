"""Prometheus gets what became of records from the engine, where that is asked to serve it."""

import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests import orders
from tests.engine import Engine, free_port


def test_the_engine_serves_what_became_of_records(tmp_path: Path) -> None:
    with EventLogWriter(tmp_path / "events", "orders", orders.PARTITIONS) as writer:
        upserts = [b'{"op": "upsert", "order_id": 1, "weight": %d}' % weight for weight in (1, 2, 60)]
        writer.append([NewRecord(None, value) for value in [*upserts, b"{"]])
    port = str(free_port())
    served = {"BYTEWAX_DATAFLOW_API_ENABLED": "1", "BYTEWAX_DATAFLOW_API_PORT": port}
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(tmp_path / "events"), **served})
    process = engine.start(tail=True, TEST_EXPECT="[Expect('light', pl.col('weight') < 50, otherwise='warn')]")
    expected = {
        'goldwax_records_total{fate="applied",table="orders"} 1.0',
        'goldwax_records_total{fate="superseded",table="orders"} 2.0',
        'goldwax_records_total{fate="quarantined",table="orders"} 1.0',
        'goldwax_unmet_total{expectation="light",table="orders"} 1.0',
    }
    deadline, found = time.monotonic() + 60, set[str]()
    while not expected <= found:
        assert time.monotonic() < deadline, sorted(line for line in found if line.startswith("goldwax"))
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
        found = _served(f"http://127.0.0.1:{port}/metrics")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


def _served(url: str) -> set[str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - the engine's own
            return {*answer.read().decode().splitlines()}
    except (URLError, OSError):
        return set()
