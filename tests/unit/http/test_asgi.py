"""asgi_app: an ASGI server's requests, driven without a server."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpux.config.settings import Settings
from gpux.http.asgi_app import AsgiApp

Find = Callable[[str], Path]
JSON = [(b"content-type", b"application/json")]
_PATIENCE_SECONDS = 60


class Host:
    """One scope of an ASGI server.

    Args:
        messages: what the app receives; then nothing comes any more.
    """

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._messages = list(messages)
        self.sent: list[Any] = []
        self.read = 0

    async def receive(self) -> Mapping[str, Any]:
        if self.read == len(self._messages):
            await asyncio.Event().wait()
        self.read += 1
        return self._messages[self.read - 1]

    async def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)


def body_in(*pieces: bytes) -> list[Mapping[str, Any]]:
    last = len(pieces) - 1
    return [
        {"type": "http.request", "body": piece, "more_body": number < last}
        for number, piece in enumerate(pieces)
    ]


async def ask(
    app: AsgiApp,
    messages: Sequence[Mapping[str, Any]] = (),
    path: str = "/predict",
    method: str = "POST",
    headers: Sequence[tuple[bytes, bytes]] = JSON,
) -> Host:
    host = Host(messages or body_in(b""))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "http_version": "1.1",
        "headers": headers,
        "client": ("127.0.0.1", 1234),
    }
    await asyncio.wait_for(app(scope, host.receive, host.send), _PATIENCE_SECONDS)
    return host


def answer(host: Host) -> tuple[int, Any]:
    start, body = host.sent
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(body["body"])
    return start["status"], json.loads(body["body"])


def served(file: Path, test: Callable[[AsgiApp], Any], **changed: Any) -> None:
    values: dict[str, Any] = {"model": file, "provider": "cpu", **changed}
    settings = Settings(**values)

    async def run() -> None:
        await test(AsgiApp(lambda: settings, {}))

    asyncio.run(run())


def test_a_body_in_pieces(model_file: Find) -> None:
    async def test(app: AsgiApp) -> None:
        for pieces in ((b'{"x":[[1,2]]}',), (b'{"x"', b"", b":[[1,", b"2]]}")):
            assert answer(await ask(app, body_in(*pieces))) == (200, {"y": [[1.0, 2.0]]})

    served(model_file("matrix"), test)


def test_errors_are_the_contracts(model_file: Find) -> None:
    async def test(app: AsgiApp) -> None:
        status, body = answer(await ask(app, body_in(b"[")))
        assert (status, body["detail"][:24]) == (400, "Request body must be a JSON object"[:24])
        assert answer(await ask(app, headers=[]))[0] == 415
        too_long = [*JSON, (b"content-length", b"101")]
        host = await ask(app, body_in(b" " * 101), headers=too_long)
        assert (answer(host)[0], host.read) == (413, 0)
        host = await ask(app, body_in(*[b" " * 60] * 9))
        assert (answer(host)[0], host.read) == (413, 2)
        assert answer(await ask(app, path="/nowhere"))[0] == 404
        assert answer(await ask(app, path="/predict", method="GET"))[0] == 405

    served(model_file("matrix"), test, max_body_bytes=100)


def test_the_other_routes_are_the_same_apps(model_file: Find) -> None:
    async def test(app: AsgiApp) -> None:
        expected = {"status": "healthy", "model": "matrix"}
        assert answer(await ask(app, path="/health", method="GET")) == (200, expected)
        assert answer(await ask(app, path="/info", method="GET"))[1]["name"] == "matrix"

    served(model_file("matrix"), test)


@pytest.mark.parametrize("sent", [[], body_in(b"{", b"")[:1], body_in(b'{"steps":1000000000000}')])
def test_a_client_that_leaves_gets_nothing(
    model_file: Find, sent: Sequence[Mapping[str, Any]]
) -> None:
    """Its run is stopped: without an end, this test has none."""

    async def test(app: AsgiApp) -> None:
        host = await ask(app, [*sent, {"type": "http.disconnect"}])
        assert host.sent == []
        assert answer(await ask(app, body_in(b'{"steps":1}'))) == (200, {"sum": 128.0})

    served(model_file("slow"), test)


def test_the_lifespan(model_file: Find) -> None:
    async def test(app: AsgiApp) -> None:
        host = Host([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        await asyncio.wait_for(
            app({"type": "lifespan"}, host.receive, host.send), _PATIENCE_SECONDS
        )
        assert [message["type"] for message in host.sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]
        assert answer(await ask(app, body_in(b'{"x":[[1,2]]}')))[0] == 503

    served(model_file("matrix"), test)


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "nonsense.onnx"
    file.write_bytes(b"nonsense")

    async def test(app: AsgiApp) -> None:
        host = Host([{"type": "lifespan.startup"}])
        await asyncio.wait_for(
            app({"type": "lifespan"}, host.receive, host.send), _PATIENCE_SECONDS
        )
        (message,) = host.sent
        assert message["type"] == "lifespan.startup.failed"
        assert str(file) in message["message"]
        assert answer(await ask(app)) == (503, {"detail": "The model could not be loaded"})

    served(file, test)
