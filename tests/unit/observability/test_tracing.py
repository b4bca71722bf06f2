"""tracing: when it is on, the warnings when it cannot be, and span attributes."""

import subprocess
import sys
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from gpux.config.settings import Settings
from gpux.http.app import create_app
from gpux.http.responses import Response
from gpux.observability.record import begin
from gpux.observability.tracing import ROUTES, create_sink, describe
from gpux.serving.service import Service

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
REQUEST = {
    "REQUEST_METHOD": "GET",
    "PATH_INFO": "/health",
    "SERVER_PROTOCOL": "HTTP/1.0",
    "wsgi.url_scheme": "http",
}


def test_without_being_asked_opentelemetry_is_not_even_imported() -> None:
    environments: list[dict[str, str]] = [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "none"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
        {"OTEL_SERVICE_NAME": "alone"},
    ]
    code = f"""
import sys
from gpux.observability import tracing
assert [tracing.create_sink(asked, "m") for asked in {environments}] == [None] * {len(environments)}
assert "opentelemetry" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "pigeon"},
            "No traces by 'pigeon': no such exporter is installed",
        ),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "No traces by 'otlp http/json': no such exporter is installed",
        ),
    ],
)
def test_an_exporter_that_is_not_there(
    variables: dict[str, str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert create_sink(variables, "m") is None
    assert caplog.messages == [said]


def test_without_the_extra_there_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert create_sink(ENDPOINT, "m") is None
    assert caplog.messages == [
        "OTEL_EXPORTER_OTLP_ENDPOINT is set, but there are no traces: "
        "pip install 'opentelemetry-sdk>=1.25' 'opentelemetry-exporter-otlp-proto-http>=1.25'"
    ]


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("models.example", "models.example", None),
        ("models.example:8080", "models.example", 8080),
        ("[::1]:8080", "::1", 8080),
        ("[::1]", "::1", None),
        ("host:", "host:", None),
        ("host:²", "host:\ufffd", None),
        ("host:123456", "host:123456", None),
        ("[", "[", None),
    ],
)
def test_the_address_is_the_one_that_the_client_asked_for(
    host: str, address: str, port: int | None
) -> None:
    record = begin({**REQUEST, "HTTP_HOST": host}, 0.0)
    record.status = 200
    attributes = describe(record)
    assert attributes["server.address"] == address
    assert attributes.get("server.port") == port
    assert attributes["network.protocol.version"] == "1.0"
    assert attributes["http.request.body.size"] == 0
    assert "user_agent.original" not in attributes


def call_nobody(*_: object) -> Response:
    raise AssertionError("no request is for the model")


@pytest.mark.parametrize("route", ROUTES)
def test_the_routes_are_the_apps(route: str) -> None:
    environment: dict[str, object] = {"PATH_INFO": route}
    setup_testing_defaults(environment)
    statuses: list[str] = []
    app: Any = create_app(Service(Settings(model=Path("none.onnx"))), call_nobody, 1)
    app(environment, lambda status, *_: statuses.append(status))
    assert statuses
    assert not statuses[0].startswith("404")
