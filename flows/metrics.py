"""Every metric there is, for Prometheus; the engine serves them at `/metrics` (`BYTEWAX_DATAFLOW_API_ENABLED`).

A process counts what it has committed since it started. What was committed ever is in the ledgers of the tables
(`goldwax tables`), which also know of commits whose outcome this process had to look up.
"""

from collections.abc import Mapping

from prometheus_client import Counter

# What became of the records of a Silver table: applied, no_op, superseded, duplicate, ambiguous, quarantined, dropped.
RECORDS = Counter("goldwax_records", "Records merged into a Silver table, by what became of them", ["table", "fate"])

# One for each record and expectation, whatever was done with the record.
UNMET = Counter("goldwax_unmet", "Records that did not meet an expectation of a Silver table", ["table", "expectation"])


def count_fates(table: str, ledger: Mapping[str, object]) -> None:
    """Count the records of a commit of a Silver table by what its ledger says of them."""
    for fate, count in ledger.items():
        if isinstance(count, int) and fate != "read":
            RECORDS.labels(table, fate).inc(count)


def count_unmet(table: str, unmet: Mapping[str, int]) -> None:
    """Count the expectations of a Silver table that staged records did not meet."""
    for expectation, count in unmet.items():
        UNMET.labels(table, expectation).inc(count)
