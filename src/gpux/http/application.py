"""The WSGI application of one process, put together: service, routes, middleware."""

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
    """What a WSGI server hosts.

    Attributes:
        service: not loaded yet.
        wsgi: the WSGI callable (PEP 3333), with the middleware around it.
        recorders: the access log and traces; the server closes them after the last response.
    """

    service: Service
    wsgi: Any
    recorders: Recorders


def build(
    settings: Settings, environment: Mapping[str, str], counters: SharedCounters | None = None
) -> Application:
    """Puts the application together. Loads no model: `service.load()` does.

    Args:
        settings: what to serve, and how.
        environment: OpenTelemetry's variables.
        counters: where requests are counted; None for this process alone.
    """
    service = Service(settings, counters)
    recorders = create_recorders(settings, environment, service.metrics)
    app = create_app(service, settings.max_body_bytes, settings.cors_origins)
    return Application(service, recorders.wrap(app), recorders)
