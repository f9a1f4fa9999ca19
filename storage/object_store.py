"""Opening the object store a table lives in; a local directory is one too."""

from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from storage.errors import UnwritableError


def is_local(uri: str) -> bool:
    """Tell whether a table is in a directory of this machine."""
    return "://" not in uri


def open_store(uri: str) -> ObjectStore:
    """Return the store whose root is `uri`: a directory, or a URL as `s3://bucket/lake`, `az://container/lake`.

    Credentials and endpoints come from the environment, under the names deltalake and polars read too
    (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_NAME` …). Raises UnwritableError for a URL that cannot be used.
    """
    try:
        return LocalStore(Path(uri).absolute()) if is_local(uri) else from_url(uri)
    except (BaseError, ValueError) as error:
        raise UnwritableError(
            f"{uri}: not a place for tables ({reason(error)}). Expected a directory, or a URL as s3://bucket/path, "
            "az://container/path or gs://bucket/path"
        ) from error


def reason(error: Exception) -> str:
    """Return what an error of the store says, without the internals that follow its first line."""
    return str(error).partition("\n")[0]
