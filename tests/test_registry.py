"""The schema registry: what it knows, what it does not, and what is its own fault and no record's."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.errors import RegistryError
from storage.logs.registry import RegistrySettings, SchemaRegistry
from tests.engine import free_port
from tests.registry_double import Registry, certificate, running_registry

ORDER = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}
CITY = {"type": "record", "name": "City", "namespace": "geo", "fields": [{"name": "name", "type": "string"}]}
VISIT = {"type": "record", "name": "Visit", "fields": [{"name": "city", "type": "geo.City"}]}


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as running:
        yield running


def client(registry: Registry, **more: object) -> SchemaRegistry:
    return SchemaRegistry(RegistrySettings(registry.url, **more))  # type: ignore[arg-type]


def test_a_schema_is_asked_for_once(registry: Registry) -> None:
    number = registry.register("orders-value", ORDER)
    known = client(registry)
    assert known.texts(number) == known.texts(number) == [registry.schemas[0]["schema"]]
    assert registry.asked[1:] == [f"/schemas/ids/{number}"]


def test_what_the_registry_does_not_have_is_none_until_it_has_it(registry: Registry) -> None:
    known = client(registry)
    assert known.texts(1) is None
    assert registry.register("orders-value", ORDER) == 1
    assert known.texts(1) is not None


def test_references_come_first_each_after_its_own(registry: Registry) -> None:
    registry.register("geo%2Fcity%20value", CITY)
    references = [{"name": "geo.City", "subject": "geo/city value", "version": 1}]
    visit = registry.register("visit", VISIT, references=references)
    tour = registry.register(
        "tour", {"type": "array", "items": "Visit"}, references=[{"name": "Visit", "subject": "visit", "version": 1}]
    )
    assert client(registry).texts(tour) == [registry.schemas[i]["schema"] for i in (0, 1, 2)]
    assert client(registry).texts(visit) == [registry.schemas[i]["schema"] for i in (0, 1)]
    missing = registry.register("lost", VISIT, references=[{"name": "a", "subject": "nowhere", "version": 1}])
    with pytest.raises(RegistryError, match=r"subjects/nowhere/versions/1, received the answer that there is none"):
        client(registry).texts(missing)


@pytest.mark.parametrize(
    "references", [[{"subject": "x", "version": "latest"}], [{"name": "x", "version": 1}], ["x"], 5, {"subject": "x"}]
)
def test_a_reference_to_no_version_of_a_subject_is_the_registrys_fault(registry: Registry, references: object) -> None:
    registry.schemas.append({"schema": '"int"', "references": references})
    with pytest.raises(RegistryError, match=r"received the reference .*, expected one with subject and version"):
        client(registry).texts(1)


def test_a_failing_registry_is_asked_again(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    number = registry.register("orders-value", ORDER)
    registry.failures = [500, 503, 429]
    assert client(registry).texts(number) is not None
    assert [record.getMessage() for record in caplog.records] == [
        f"schema registry {registry.url}: HTTP status {status}; asking again in {wait} s"
        for status, wait in ((500, 0.1), (503, 0.2), (429, 0.4))
    ]


def test_a_slow_registry_is_given_up_and_no_record_with_it(registry: Registry) -> None:
    number = registry.register("orders-value", ORDER)
    registry.delay = 0.5
    began = time.monotonic()
    with pytest.raises(RegistryError, match=r"did not answer within 0.6 s .*timed out.*no record was given up"):
        client(registry, answer_seconds=0.2, retry_seconds=0.6).texts(number)
    assert time.monotonic() - began < 3


def test_a_registry_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryError, match=rf"{url} did not answer within 0.3 s .*refused"):
        SchemaRegistry(RegistrySettings(url, retry_seconds=0.3)).texts(1)


def test_a_login_is_asked_for_and_its_password_shows_nowhere(registry: Registry) -> None:
    registry.login = ("ada", "s3cret")
    number = registry.register("orders-value", ORDER)
    assert client(registry, username="ada", password="s3cret").texts(number) is not None  # noqa: S106 - of the double
    for settings in ({}, {"username": "ada", "password": "wr0ng"}):
        with pytest.raises(RegistryError, match=r"status 401; set GOLDWAX_REGISTRY_USERNAME") as caught:
            client(registry, **settings).texts(number)
        assert "wr0ng" not in str(caught.value)
    shown = repr(RegistrySettings(registry.url, "ada", "s3cret"))
    assert ("ada" in shown, "s3cret" in shown) == (True, False)
    for url in ("http://ada:s3cret@127.0.0.1:8081", "ada:s3cret@127.0.0.1:8081"):
        with pytest.raises(RegistryError, match=r"GOLDWAX_REGISTRY_URL .*, has a login in it: leave it out") as refused:
            RegistrySettings(url)
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("url", ["localhost:8081", "registry", "ftp://localhost:8081", "http:localhost"])
def test_what_is_no_url_is_named_with_the_variable_it_comes_from(url: str) -> None:
    told = f"received {url!r}, expected one that begins with http:// or https://.*GOLDWAX_REGISTRY_URL"
    with pytest.raises(RegistryError, match=told):
        RegistrySettings(url)


def test_another_server_at_the_url_is_no_registry_that_knows_nothing(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"HTTP status 404 and not the answer of a schema registry; check the URL"):
        SchemaRegistry(RegistrySettings(f"{registry.url}/apis")).texts(1)


def test_a_registry_is_asked_over_tls_if_its_certificate_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = certificate(tmp_path)
    with running_registry(certificate=own) as registry:
        with pytest.raises(RegistryError, match=r"did not answer .*certificate verify failed"):
            client(registry, retry_seconds=0.3).texts(1)
        assert registry.asked == []
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        number = registry.register("orders-value", ORDER)
        assert client(registry).texts(number) == [registry.schemas[0]["schema"]]
