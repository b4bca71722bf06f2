"""Assembles what one process serves: service, routes, recorders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpux.config.settings import Settings
from gpux.http.inference import Caller
from gpux.http.middleware import Recorders, create_recorders
from gpux.observability.shared_counters import SharedCounters
from gpux.serving.service import Service


@dataclass(frozen=True, slots=True)
class Application:
    """What one process serves.

    Attributes:
        service: its model is not loaded yet.
        make_app: makes the WSGI app (PEP 3333), which records no requests. To import Falcon takes
            longer than the rest of a start, and nobody needs to wait for it.
        recorders: of access log and traces; the server closes them after the last response.
    """

    service: Service
    make_app: Callable[[], Any]
    recorders: Recorders


def build(
    settings: Settings,
    environment: Mapping[str, str],
    call: Caller,
    counters: SharedCounters | None = None,
) -> Application:
    """Assembles the application. Loads no model: `service.load()` does.

    Args:
        settings: what to serve, and how.
        environment: OpenTelemetry's variables.
        call: how the WSGI app calls the service, from a thread of its host.
        counters: where requests are counted; None for this process alone.
    """
    service = Service(settings, counters)
    recorders = create_recorders(settings, environment, service.metrics)

    def make_app() -> Any:
        from gpux.http.app import create_app

        return create_app(service, call, settings.max_body_bytes, settings.cors_origins)

    return Application(service, make_app, recorders)
