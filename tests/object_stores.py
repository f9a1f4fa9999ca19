"""Real object stores on the loopback: S3 by moto, Azure Blob Storage by Azurite, and fresh buckets in them.

obstore, deltalake and polars all find their endpoint and credentials in the same environment variables; a test that
takes a `Bucket` fixture has them set, and the processes that it starts inherit them.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Protocol
from urllib.request import Request, urlopen

from tests.child_server import child_server, free_port
from tests.downloads import npm_packages, version_in

_AZURITE = Path(__file__).parent / "azurite"
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Every Azurite's own account, as its documentation gives it."""


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of S3 or container of Azure: its URI, and the environment in which clients open it."""

    uri: str
    environment: Mapping[str, str]


class ObjectStoreServer(Protocol):
    """A running server, in which every test has a bucket of its own."""

    def create_bucket(self) -> Bucket:
        """Make an empty bucket."""
        ...


@dataclass(frozen=True)
class S3Server:
    """moto's S3 at `endpoint`."""

    endpoint: str

    def create_bucket(self) -> Bucket:
        """Make an empty bucket."""
        name = _name()
        _put(Request(f"{self.endpoint}/{name}", method="PUT"))  # noqa: S310 - our own server
        environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "of-the-tests",
        }
        return Bucket(f"s3://{name}", environment)


@dataclass(frozen=True)
class AzureServer:
    """Azurite's blob service; `endpoint` ends with the account, as only names of hosts can say it otherwise."""

    endpoint: str

    def create_bucket(self) -> Bucket:
        """Make an empty container."""
        name = _name()
        headers = _signed(f"{_ACCOUNT}/{name}", "restype:container")
        _put(Request(f"{self.endpoint}/{name}?restype=container", method="PUT", headers=headers))  # noqa: S310 - ours
        environment = {
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": _KEY,
        }
        return Bucket(f"az://{name}", environment)


@contextlib.contextmanager
def running_s3(directory: Path) -> Iterator[S3Server]:
    """Run S3, with its log in `directory`."""
    port = free_port()
    with child_server([sys.executable, "-m", "tests.s3_server", str(port)], port, directory / "s3.log"):
        yield S3Server(f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def running_azure(directory: Path) -> Iterator[AzureServer]:
    """Run Azurite, with its log in `directory`. Raises UnavailableError."""
    version = version_in(_AZURITE / "package.json", r'"azurite": "([^"]+)"')
    main = npm_packages(f"azurite-{version}", _AZURITE) / "azurite" / "dist" / "src" / "blob" / "main.js"
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    quiet = ["--skipApiVersionCheck", "--disableTelemetry"]
    command = ["node", "--require", str(_AZURITE / "end_with_stdin.cjs"), str(main), *options, *quiet]
    with child_server(command, port, directory / "azurite.log"):
        yield AzureServer(f"http://127.0.0.1:{port}/{_ACCOUNT}")


def foreign_settings() -> list[str]:
    """Return the environment variables of this machine that could lead a client elsewhere."""
    return [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "AZURITE_"))]


def _name() -> str:
    return f"lake-{uuid.uuid4().hex}"


def _put(request: Request) -> None:
    with urlopen(request, timeout=10):  # noqa: S310 - our own server
        pass


def _signed(resource: str, query: str) -> dict[str, str]:
    """Return the headers of a PUT without content ("Authorize with Shared Key" of the Blob service)."""
    dated = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "\n".join(["PUT", *[""] * 11, *(f"{k}:{v}" for k, v in dated.items()), f"/{_ACCOUNT}/{resource}", query])
    digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    return {
        **dated,
        "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
