"""A server as a child process on a port of the loopback, which lives no longer than its parent."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

STOP_SECONDS = 10.0
LOG_TAIL_LINES = 30


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def child_server(command: Sequence[str], port: int, log: Path, timeout: float = 30.0) -> Iterator[None]:
    """Run `command` from the moment it listens on `port`.

    It must end at the end of its standard input, which comes also when its parent is killed. Raises TimeoutError with
    the tail of the log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches pytest, which stops the server last
        )
    try:
        _wait_until_itlistens(process, port, log, timeout)
        yield
    finally:
        end(process)


def _wait_until_itlistens(process: "subprocess.Popen[bytes]", port: int, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text().splitlines()[-LOG_TAIL_LINES:])
            raise TimeoutError(f"nobody listened on port {port} within {timeout:g} s. The end of the log:\n{tail}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Say whether somebody listens on a port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process by the end of its standard input, and in any case."""
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
