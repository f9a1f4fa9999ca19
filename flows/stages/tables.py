"""What each table of a pipeline is declared to be, for its owner and for the check before a run."""

from dataclasses import replace
from functools import partial

import polars as pl
import pyarrow as pa

from flows.event_batch import QUARANTINE
from flows.kpi import Kpi
from flows.silver import Silver
from flows.snapshots import Snapshots
from operators.silver.line import EVENT
from operators.silver.outcomes import pair_schema
from operators.silver.technical import technical
from storage.delta.definition import Terms, differences
from storage.delta.table_declaration import Declaration

MOVE_AWAY = "Declare it as it was, or move the staging, quarantine and Silver tables away: all are then read anew"
_REBUILT = ("keys", "sequence_by", "history", "track", "ties")


def staging_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the staging table of a Silver table."""
    schema, terms = _arrow(silver.staged_schema), _staged_terms(silver)
    return Declaration(schema, pipeline, _definition(silver), terms=terms, remedy=partial(_remedy, silver, terms))


def quarantine_table(pipeline: str) -> Declaration:
    """Return a quarantine table."""
    return Declaration(_arrow(QUARANTINE), pipeline, "records that could not become rows")


def silver_table(silver: Silver, pipeline: str) -> Declaration:
    """Return a Silver table."""
    return replace(_merged(silver, pipeline, silver.row_schema), change_feed=True, vectors=_vectors(silver))


def side_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the table beside a Silver table, of the events that no row shows."""
    staged = silver.staged_schema
    schema = pl.Schema({name: staged[name] for name in [*EVENT, *silver.schema]})
    return replace(_merged(silver, pipeline, schema), vectors=True)


def ambiguous_table(silver: Silver, pipeline: str) -> Declaration:
    """Return the table of the ambiguous pairs of a Silver table."""
    event = pl.Schema({**technical(silver.sequence_type), **silver.schema})
    schema = pair_schema(event, [*silver.schema])
    return Declaration(_arrow(schema), pipeline, "pairs of events that have no order")


def gold_table(kpi: Kpi, pipeline: str, silver_id: str = "") -> Declaration:
    """Return the Gold table of a KPI over the Silver table that was made with this id."""
    definition = f"group_by {list(kpi.group_by)}, {kpi.window}, {dict(kpi.measures)}, {kpi.source.name} {silver_id}"
    return Declaration(_arrow(kpi.rollup().schema), pipeline, definition, derived=True, vectors=_vectors(kpi))


def _vectors(table: Silver | Kpi) -> bool:
    return table.strategy == "deletion_vectors"


def _merged(silver: Silver, pipeline: str, schema: pl.Schema) -> Declaration:
    """Return a table of what the events of a Silver table come to."""
    ties = {"ties": silver.ties} if silver.ties == "quarantine" else {}
    terms = {**_staged_terms(silver), "history": silver.history, "track": silver.track, **ties}
    definition = _definition(silver) + _history(silver)
    return Declaration(_arrow(schema), pipeline, definition, terms=terms, remedy=partial(_remedy, silver, terms))


def _definition(silver: Silver) -> str:
    """Return what the rows depend on; snapshots beside a stream are events like its own, and may be declared later."""
    source = silver.source
    ignored = f", ignore_null_updates {sorted(silver.ignore_null_updates)}" if silver.ignore_null_updates else ""
    keys, sequence = list(silver.keys), silver.sequence_by
    return f"topic {source.topic}, {_kind(silver)}, keys {keys}, sequence_by {sequence}{ignored}"


def _kind(silver: Silver) -> str:
    source = silver.source
    return f"snapshots by {source.version_type}" if isinstance(source, Snapshots) else f"{source.format}"


def _history(silver: Silver) -> str:
    history = f", history {silver.history}, track {silver.track}" if silver.history != "scd1" else ""
    return history + (f", ties {silver.ties}" if silver.ties == "quarantine" else "")


def _staged_terms(silver: Silver) -> Terms:
    """Return what the events in staging depend on, as it was declared."""
    source = silver.source
    ignored = {"ignore_null_updates": sorted(silver.ignore_null_updates)} if silver.ignore_null_updates else {}
    return {
        "topic": source.topic,
        "format": _kind(silver),
        "keys": silver.keys,
        "sequence_by": silver.sequence_by,
        **ignored,
    }


def beyond_rebuild(made: Terms, declared: Terms) -> list[str]:
    """Return in words what of a definition is declared otherwise and no rebuild can change.

    Other events would have been staged; the sequence of several columns is staged in a form of its own.
    """
    told = differences(made, declared)
    several = any(isinstance(terms.get("sequence_by"), list | tuple) for terms in (made, declared))
    return [words for name, words in told.items() if name not in _REBUILT or (name == "sequence_by" and several)]


def _remedy(silver: Silver, declared: Terms, made: Terms) -> str:
    if beyond_rebuild(made, declared):
        return MOVE_AWAY
    return (
        f"Declare it as it was, or run `goldwax rebuild MODULE {silver.name}`: it makes the rows anew from staging, "
        "where that has all they need"
    )


def _arrow(schema: pl.Schema) -> pa.Schema:
    """Return the Arrow schema that a Delta table is made with; every column may be NULL."""
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
