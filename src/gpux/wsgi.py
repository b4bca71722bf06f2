"""`gpux.wsgi:app` for any WSGI server: `GPUX_MODEL=PATH waitress-serve gpux.wsgi:app`.

The app is created on first access, not at import, from the environment (see config/settings.py).
"""

import atexit
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from gpux.config.settings import read_settings
from gpux.errors import StartError
from gpux.http.application import Application, build
from gpux.serving.background import Background

_lock = threading.Lock()  # guards globals()["app"]: the model is loaded once


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if "app" not in globals():
            try:
                application = create_application(os.environ)
            except StartError as error:
                # Without the app, the server could only respond with errors: exit with the reason.
                print(f"gpux: {error}", file=sys.stderr)
                raise SystemExit(2) from error
            atexit.register(application.recorders.close)
            globals()["app"] = application.recorders.wrap(application.make_app())
        return globals()["app"]


def create_application(environment: Mapping[str, str]) -> Application:
    """Loads the model that the environment names, for hosts that call from threads of their own.

    Raises:
        StartError: it cannot be served, and why.
    """
    background = Background(lambda loop: application.service.attach(loop))
    application = build(read_settings(environment, {}), environment, background.call)
    application.service.open(application.service.load())
    return application
