"""S3 as a process: moto behind a lock. `python -m tests.s3_server <port>`; it ends at the end of its standard input.

S3 decides conditional puts of one key one after the other. moto looks first and puts then, with a thread a request, so
that two of them could find a key absent; the lock keeps what a client of S3 may rely on.
"""

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

_one_at_a_time = threading.Lock()
_moto = DomainDispatcherApplication(create_backend_app)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer one request (WSGI)."""
    with _one_at_a_time:
        return [*_moto(environ, start_response)]


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True, request_handler=MotoRequestHandler)
