"""A schema registry on a port of this machine, that speaks the parts of the HTTP API that are used.

Source of paths, bodies and error codes: Confluent documentation, "Schema Registry API Reference".
"""

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from urllib.request import Request, urlopen

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

CONTENT = "application/vnd.schemaregistry.v1+json"


@dataclass
class Registry:
    """The schemas, by id from 1 on, and how the registry fails.

    `failures` are HTTP statuses of the next answers; `delay` is how many seconds each answer takes; with a `login` all
    others are turned away. `asked` has the paths that were asked for.
    """

    url: str = ""
    schemas: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, list[int]] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    delay: float = 0.0
    login: tuple[str, str] | None = None
    asked: list[str] = field(default_factory=list)

    def register(self, subject: str, schema: object, kind: str = "AVRO", references: Sequence[object] = ()) -> int:
        """Register a schema as a producer does, over HTTP; return its id."""
        body = {"schema": json.dumps(schema), "schemaType": kind, "references": [*references]}
        headers = {"Content-Type": CONTENT} | self._authorization()
        request = Request(f"{self.url}/subjects/{subject}/versions", json.dumps(body).encode(), headers)  # noqa: S310
        with urlopen(request, timeout=10) as response:  # noqa: S310 - our own server
            number: int = json.loads(response.read())["id"]
        return number

    def _authorization(self) -> dict[str, str]:
        if self.login is None:
            return {}
        return {"Authorization": f"Basic {base64.b64encode(':'.join(self.login).encode()).decode()}"}

    def answer(  # noqa: PLR0911 - one a path
        self, method: str, path: str, headers: Any, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and body of an answer."""
        self.asked.append(path)
        time.sleep(self.delay)
        if self.failures:
            return self.failures.pop(0), {"error_code": 50001, "message": "Error in the backend data store"}
        if self.login and headers.get("Authorization") != self._authorization()["Authorization"]:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        match method, path.strip("/").split("/"):
            case "POST", ["subjects", subject, "versions"]:
                return 200, {"id": self._add(unquote(subject), json.loads(body))}
            case "GET", ["schemas", "ids", number] if 0 < int(number) <= len(self.schemas):
                return 200, self.schemas[int(number) - 1]
            case "GET", ["schemas", "ids", number]:
                return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
            case "GET", ["subjects", subject, "versions", version] if unquote(subject) in self.versions:
                at = self.versions[unquote(subject)][int(version) - 1]
                return 200, {"subject": unquote(subject), "version": int(version), "id": at} | self.schemas[at - 1]
            case "GET", ["subjects", subject, "versions", _]:
                return 404, {"error_code": 40401, "message": f"Subject '{unquote(subject)}' not found."}
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _add(self, subject: str, registered: dict[str, Any]) -> int:
        answer = {"schema": registered["schema"]}
        if registered["schemaType"] != "AVRO":
            answer["schemaType"] = registered["schemaType"]
        if registered["references"]:
            answer["references"] = registered["references"]
        if answer not in self.schemas:
            self.schemas.append(answer)
        number = self.schemas.index(answer) + 1
        self.versions.setdefault(subject, []).append(number)
        return number


def certificate(directory: Path) -> Path:
    """Return a new file with the private key and the certificate of this machine, which vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry of the tests")])
    own = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    signed = made.add_extension(own, critical=False).sign(key, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = directory / "registry.pem"
    file.write_bytes(private + signed.public_bytes(Encoding.PEM))
    return file


@contextmanager
def running_registry(port: int = 0, certificate: Path | None = None) -> Iterator[Registry]:
    """Give a registry that runs until the block ends; with a certificate it speaks TLS."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer("GET", b"")

        def do_POST(self) -> None:
            self._answer("POST", self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, method: str, body: bytes) -> None:
            status, answer = registry.answer(method, self.path, self.headers, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked has given up
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        registry.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
