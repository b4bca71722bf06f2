"""`gpux.wsgi:app` for any WSGI server: `GPUX_MODEL=PATH waitress-serve gpux.wsgi:app`.

The app is made when it is first asked for, from the environment (see gpux.config), not when this is
imported.
"""

import atexit
import os
import sys
import threading
from typing import Any

from gpux.app import create_app
from gpux.config import read_settings
from gpux.errors import StartError
from gpux.observe import create_observers
from gpux.service import Service

_lock = threading.Lock()  # guards globals()["app"]: the model is loaded once


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if "app" not in globals():
            try:
                settings = read_settings(os.environ, {})
                service = Service(settings)
                service.load()
            except StartError as error:
                # A server without its app would only answer errors: end it, with the reason.
                print(f"gpux: {error}", file=sys.stderr)
                raise SystemExit(2) from error
            observers = create_observers(settings, os.environ, service.metrics)
            atexit.register(observers.close)
            app = create_app(service, settings.max_body_bytes, settings.cors_origins)
            globals()["app"] = observers.around(app)
        return globals()["app"]
