"""The apps under other servers, by their command lines: a request of each kind, and their end."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.servers import ServerProcess, free_port

Find = Callable[[str], Path]
HOSTS = {
    "gunicorn": ("-b", "127.0.0.1:{port}", "--threads", "4", "gpux.wsgi:app"),
    "granian": ("--interface", "wsgi", "--port", "{port}", "--no-ws", "gpux.wsgi:app"),
    "hypercorn": ("--bind", "127.0.0.1:{port}", "gpux.asgi:app"),
    "uvicorn": ("--port", "{port}", "gpux.asgi:app"),
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_serves_the_app(host: str, model_file: Find) -> None:
    port = free_port()
    command = [argument.format(port=port) for argument in HOSTS[host]]
    variables = {"GPUX_MODEL": str(model_file("matrix"))}
    with ServerProcess([sys.executable, "-m", host, *command], port, variables) as server:
        for _ in range(20):
            response = server.post(b'{"x":[[1,2]]}')
            assert (response.status, response.json) == (200, {"y": [[1.0, 2.0]]})
        assert server.post(b"[").error(400).startswith("Request body must be")
        assert server.post(b'{"x":[[1,2]]}', {"Content-Type": "text/plain"}).status == 415
        assert server.request("GET", "/health").json == {"status": "healthy", "model": "matrix"}
        assert b"gpux_requests_total" in server.request("GET", "/metrics").body
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in server.stderr.text
