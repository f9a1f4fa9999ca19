"""Settings from the environment: the one place where it is read.

| variable                  | meaning                                                      | default            |
|---------------------------|--------------------------------------------------------------|--------------------|
| `GOLDWAX_LAKE`            | directory or URL the tables of a pipeline live under          | the declared lake  |
| `GOLDWAX_EVENTS`          | directory of the embedded event log                           | the declared one   |
| `KAFKA_BOOTSTRAP_SERVERS` | brokers of `Kafka` sources that declare none                  | `127.0.0.1:9092`   |
| `GOLDWAX_KAFKA_*`         | a client option: `GOLDWAX_KAFKA_SASL_PASSWORD` is `sasl.password` | none           |
| `GOLDWAX_REGISTRY_URL`    | the schema registry                                          | the declared one   |
| `GOLDWAX_REGISTRY_USERNAME`, `GOLDWAX_REGISTRY_PASSWORD` | its login                     | none               |

What the environment says wins over what the pipeline declares.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

_OPTION = "GOLDWAX_KAFKA_"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one run. What may hold secrets is left out of `repr`."""

    lake: str | None = None
    events: str | None = None
    bootstrap_servers: str | None = None
    kafka_options: Mapping[str, str] = field(default_factory=dict, repr=False)
    registry_url: str | None = None
    registry_login: tuple[str | None, str | None] = field(default=(None, None), repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings from `environment`, by default the process's own."""
        found = os.environ if environment is None else environment
        options = {
            name.removeprefix(_OPTION).lower().replace("_", "."): value
            for name, value in found.items()
            if name.startswith(_OPTION)
        }
        return cls(
            found.get("GOLDWAX_LAKE"),
            found.get("GOLDWAX_EVENTS"),
            found.get("KAFKA_BOOTSTRAP_SERVERS"),
            options,
            found.get("GOLDWAX_REGISTRY_URL"),
            (found.get("GOLDWAX_REGISTRY_USERNAME"), found.get("GOLDWAX_REGISTRY_PASSWORD")),
        )
