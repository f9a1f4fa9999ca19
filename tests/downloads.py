"""What tests run against and PyPI does not have: jars by Maven, packages by npm, kept in ~/.cache/goldwax."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path.home() / ".cache" / "goldwax"


class UnavailableError(Exception):
    """A server or an engine cannot be had on this machine; the message says what is missing."""


def need(program: str, reason: str) -> None:
    """Raise UnavailableError with the reason when the program is not on the PATH."""
    if not shutil.which(program):
        raise UnavailableError(f"{reason}, and there is no `{program}` on the PATH.")


def maven_jars(name: str, pom: Path) -> str:
    """Return the class path of all that `pom` lists; `name` says what and which version. Raises UnavailableError."""
    need("java", f"{name} needs Java 17 or newer")

    def fetch(directory: Path) -> None:
        need("mvn", f"the jars of {name} come by Maven")
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={directory}"]
        run(["mvn", "-q", "-B", "-f", str(pom), *goal])

    return f"{_kept(name, fetch)}/*"


def npm_packages(name: str, locked: Path) -> Path:
    """Return the `node_modules` of the `package-lock.json` in `locked`. Raises UnavailableError."""
    need("node", f"{name} runs on Node.js")

    def fetch(directory: Path) -> None:
        need("npm", f"the packages of {name} come by npm")
        directory.mkdir(parents=True, exist_ok=True)
        for each in ("package.json", "package-lock.json"):
            shutil.copy(locked / each, directory)
        run(["npm", "ci", "--prefix", str(directory), "--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev"])

    return _kept(name, fetch) / "node_modules"


def version_in(manifest: Path, pattern: str) -> str:
    """Return what the group of `pattern` finds in the manifest."""
    found = re.search(pattern, manifest.read_text())
    if found is None:
        raise LookupError(f"{manifest} has no {pattern}")
    return found[1]


def run(command: Sequence[str]) -> str:
    """Return what the command prints. Raises RuntimeError with the end of it when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def _kept(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the directory of `name`; what another process fetched at the same time serves as well as ours."""
    directory = CACHE / name
    if directory.is_dir():
        return directory
    partial = directory.with_name(f"{name}.{os.getpid()}")
    try:
        fetch(partial)
        partial.rename(directory)
    except RuntimeError as error:
        raise UnavailableError(f"{name} could not be fetched: {error}") from error
    except OSError:
        if not directory.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory
