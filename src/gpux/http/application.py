"""Assembles the WSGI application of one process: service, routes, middleware."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpux.config.settings import Settings
from gpux.http.app import create_app
from gpux.http.middleware import Recorders, create_recorders
from gpux.observability.shared_counters import SharedCounters
from gpux.serving.service import Service


@dataclass(frozen=True, slots=True)
class Application:
    """The WSGI application with its service and recorders.

    Attributes:
        service: its model is not loaded yet.
        wsgi: the WSGI callable (PEP 3333), including the middleware.
        recorders: of access log and traces; the server closes them after the last response.
    """

    service: Service
    wsgi: Any
    recorders: Recorders


def build(
    settings: Settings, environment: Mapping[str, str], counters: SharedCounters | None = None
) -> Application:
    """Assembles the application. Loads no model: `service.load()` does.

    Args:
        settings: what to serve, and how.
        environment: OpenTelemetry's variables.
        counters: where requests are counted; None for this process alone.
    """
    service = Service(settings, counters)
    recorders = create_recorders(settings, environment, service.metrics)
    app = create_app(service, settings.max_body_bytes, settings.cors_origins)
    return Application(service, recorders.wrap(app), recorders)
