"""A schema registry over its HTTP API (Confluent documentation, "Schema Registry API Reference").

What an id stands for never changes, so each is asked for once in a process. A registry that does not answer is asked
again for a while and is then an error, never a verdict on a record; only its own "schema not found" is one.
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from storage.errors import RegistryError

_log = logging.getLogger("goldwax")
_NOT_FOUND = (40401, 40402, 40403)  # a registry's codes for a subject, a version or a schema that it does not have
_HTTP_NOT_FOUND, _UNAUTHORIZED, _FORBIDDEN, _TOO_MANY, _SERVER_ERROR = 404, 401, 403, 429, 500
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds between two attempts, doubled after each
_ACCEPT = {"Accept": "application/vnd.schemaregistry.v1+json"}
_DECLARED = "GOLDWAX_REGISTRY_URL or the format's `registry`"
_LOGIN = "set GOLDWAX_REGISTRY_USERNAME and GOLDWAX_REGISTRY_PASSWORD to a login that may read schemas"
_LARGEST = 16 * 2**20  # bytes of an answer


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where a registry is and how to ask it; `password` shows in no message.

    `answer_seconds` bounds one attempt, `retry_seconds` all of them for one question. Raises RegistryError for an URL
    that is not of http or https, or that has a login in it.
    """

    url: str
    username: str | None = None
    password: str | None = None
    answer_seconds: float = 10.0
    retry_seconds: float = 60.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if "@" in (parts.netloc or self.url):
            raise RegistryError(
                f"the URL of the schema registry, {_DECLARED}, has a login in it: leave it out; {_LOGIN}"
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RegistryError(
                f"the URL of the schema registry: received {self.url!r}, expected one that begins with http:// or "
                f"https://. Correct {_DECLARED}"
            )

    def __repr__(self) -> str:
        hidden = "***" if self.password else None
        return f"RegistrySettings({self.url!r}, username={self.username!r}, password={hidden!r})"


class SchemaRegistry:
    """Schemas by id; may be shared by threads."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._known: dict[int, Sequence[str]] = {}
        self._lock = threading.Lock()

    def texts(self, number: int) -> Sequence[str] | None:
        """Return the text of the schema with this id after those that it refers to; None when there is none.

        Raises RegistryError when that cannot be found out.
        """
        with self._lock:
            if number not in self._known:
                answer = self._ask(f"schemas/ids/{number}")
                if answer is None:
                    return None
                self._known[number] = [*self._texts(answer, frozenset())]
            return self._known[number]

    def _texts(self, answer: dict[str, Any], above: frozenset[str]) -> Iterator[str]:
        """Yield the texts of what a schema refers to, then its own."""
        for path in self._references(answer):
            if path in above:
                raise self._failed(path, "a schema that refers to itself")
            referred = self._ask(path)
            if referred is None:
                raise self._failed(path, "the answer that there is none, although another schema refers to it")
            yield from self._texts(referred, above | {path})
        text = answer.get("schema")
        if not isinstance(text, str):
            raise self._failed("a schema", f"{str(answer)[:200]}, expected a field `schema`")
        yield text

    def _references(self, answer: dict[str, Any]) -> Iterator[str]:
        """Yield where each schema is that another one refers to."""
        found = answer.get("references") or []
        for each in found if isinstance(found, list) else [found]:
            subject, version = (each.get("subject"), each.get("version")) if isinstance(each, dict) else (None, None)
            if not isinstance(subject, str) or not isinstance(version, int):
                raise self._failed(
                    "a schema", f"the reference {str(each)[:200]}, expected one with subject and version"
                )
            yield f"subjects/{quote(subject, safe='', errors='replace')}/versions/{version}"

    def _ask(self, path: str) -> dict[str, Any] | None:
        """Return the answer, None for "not found"; asks again while the registry cannot answer."""
        end, wait = time.monotonic() + self._settings.retry_seconds, _FIRST_WAIT
        while True:
            try:
                return self._once(path)
            except (_NoAnswerError, OSError, HTTPException) as error:
                if time.monotonic() + wait > end:
                    raise self._silent(path, error) from None
                _log.warning("schema registry %s: %s; asking again in %.1f s", self._settings.url, error, wait)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _once(self, path: str) -> dict[str, Any] | None:
        request = Request(f"{self._settings.url}/{path}", headers=_ACCEPT)  # noqa: S310 - http or https, see the settings
        if self._settings.username is not None:
            login = f"{self._settings.username}:{self._settings.password or ''}"
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        try:
            with urlopen(request, timeout=self._settings.answer_seconds) as response:  # noqa: S310
                return self._parsed(path, response.read(_LARGEST))
        except HTTPError as error:
            self._check(path, error.code, error.read(_LARGEST))
            return None
        except URLError as error:
            raise _NoAnswerError(str(error.reason)) from None

    def _check(self, path: str, status: int, body: bytes) -> None:
        """Check that a refusal says that there is no such schema."""
        if status >= _SERVER_ERROR or status == _TOO_MANY:
            raise _NoAnswerError(f"HTTP status {status}")
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            raise self._failed(path, f"HTTP status {status}; {_LOGIN}")
        try:
            code = json.loads(body).get("error_code")
        except (ValueError, AttributeError, RecursionError):
            code = None
        if status != _HTTP_NOT_FOUND or code not in _NOT_FOUND:
            raise self._failed(path, f"HTTP status {status} and not the answer of a schema registry; check the URL")

    def _parsed(self, path: str, body: bytes) -> dict[str, Any]:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._failed(path, "no JSON object; check that the URL is that of a schema registry")
        return found

    def _failed(self, path: str, received: str) -> RegistryError:
        return RegistryError(f"schema registry {self._settings.url}: asked for {path}, received {received}.")

    def _silent(self, path: str, reason: Exception) -> RegistryError:
        return RegistryError(
            f"schema registry {self._settings.url} did not answer within {self._settings.retry_seconds:g} s when asked "
            f"for {path} (last reported: {reason}). Check that it runs and can be reached from here, then start again; "
            "no record was given up."
        )


class _NoAnswerError(Exception):
    """An attempt came to nothing; the next one may not."""
