"""What one run of a pipeline is given besides its declaration."""

from dataclasses import dataclass

from flows.batching import Batching
from flows.lake import Lake
from flows.settings import Settings


@dataclass(frozen=True, slots=True)
class Run:
    """Name, lake and settings of a run, when its stages commit, and whether it follows its sources (`tail`)."""

    pipeline: str
    lake: Lake
    settings: Settings
    batching: Batching
    tail: bool
