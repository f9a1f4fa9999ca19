"""What the image and the compose file promise about safety, read from their text; no Docker is needed."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text()
PINNED = re.compile(r"[a-z0-9/._-]+:\d+\.\d+\.\d+[a-z0-9.-]*")
SECRET = re.compile(
    r"(?i)(passw|secret|token|credential|access.?key|sasl|jaas)[\w.-]*['\"]?\s*[:=]|://[^/\s]*:[^/\s]*@"
)


class Instruction(NamedTuple):
    name: str
    arguments: str


def instructions() -> list[Instruction]:
    """Return the Dockerfile's instructions in order, comments dropped and continued lines joined."""
    code = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    lines = code.replace("\\\n", " ").splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line.strip()]


def arguments(name: str) -> list[str]:
    return [found.arguments for found in instructions() if found.name == name]


def compose_values(field: str) -> list[str]:
    """Return the scalars that stand behind ``field:`` anywhere in the compose file."""
    return re.findall(rf"^\s+{field}: (.+)$", COMPOSE, re.MULTILINE)


def compose_items(field: str) -> list[str]:
    """Return the items of every block list named `field`."""
    blocks = re.findall(rf"^( +){field}:\n((?:\1  +- .*\n)+)", COMPOSE, re.MULTILINE)
    return [item.strip().removeprefix("- ").strip('"') for _, block in blocks for item in block.splitlines()]


def test_every_image_is_pinned_to_a_full_version() -> None:
    images = [base.split()[0] for base in arguments("FROM")] + compose_values("image")

    assert len(images) == 6
    assert [image for image in images if not PINNED.fullmatch(image)] == []


def test_the_image_runs_as_a_numbered_user_that_is_not_root() -> None:
    last_stage = instructions()[max(i for i, found in enumerate(instructions()) if found.name == "FROM") :]
    users = [found.arguments for found in last_stage if found.name == "USER"]

    assert [re.fullmatch(r"[1-9]\d+:[1-9]\d+", user) is not None for user in users] == [True]


def test_python_itself_receives_the_stop_signal() -> None:
    """The exec form puts no shell between, and SIGTERM is what drains a flow."""
    assert [json.loads(form) for form in arguments("ENTRYPOINT")] == [["python", "-m", "bytewax.run"]]
    assert [json.loads(form) for form in arguments("CMD")] == [["flows.flights"]]
    assert arguments("STOPSIGNAL") == ["SIGTERM"]


def test_what_the_image_copies_exists_and_is_in_the_build_context() -> None:
    context = [line.strip("!/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for copy in arguments("COPY") if "--from" not in copy for source in copy.split()[:-1]]

    assert sorted(copied) == sorted(context)
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_packages_come_from_the_lock_file() -> None:
    syncs = [part for run in arguments("RUN") for part in run.split("&&") if "uv sync" in part]

    assert len(syncs) == 2
    assert all("--locked" in sync and "--no-dev" in sync for sync in syncs)


def test_ports_are_published_on_the_loopback_interface_only() -> None:
    ports = compose_items("ports")

    assert len(ports) == COMPOSE.count("ports:") == 1
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_flow_has_time_to_drain_and_a_lake_that_outlives_it() -> None:
    assert compose_values("stop_grace_period") == ["60s", "60s"]
    assert "lake:/var/lib/goldwax" in compose_items("volumes")
    assert re.search(r"^volumes:\n(?:  .*\n)*  lake:$", COMPOSE, re.MULTILINE)
    assert compose_values("read_only") == ["true", "true"]


@pytest.mark.parametrize("text", [DOCKERFILE, COMPOSE], ids=["Dockerfile", "compose.yaml"])
def test_no_secret_stands_in_the_file(text: str) -> None:
    assert SECRET.findall(text) == []


@pytest.mark.parametrize("line", ["KAFKA_PASSWORD: hunter2", "AWS_SECRET_ACCESS_KEY=x", "url: https://me:x@host/"])
def test_a_secret_would_be_seen(line: str) -> None:
    assert SECRET.search(line)
