"""`gpux.wsgi:app` for any WSGI server: `GPUX_MODEL=PATH waitress-serve gpux.wsgi:app`.

The app is created on first access, not at import, from the environment (see config/settings.py).
"""

import atexit
import os
import sys
import threading
from typing import Any

from gpux.config.settings import read_settings
from gpux.errors import StartError
from gpux.http.application import build

_lock = threading.Lock()  # guards globals()["app"]: the model is loaded once


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lock:
        if "app" not in globals():
            try:
                settings = read_settings(os.environ, {})
                application = build(settings, os.environ)
                application.service.load()
            except StartError as error:
                # Without the app, the server could only respond with errors: exit with the reason.
                print(f"gpux: {error}", file=sys.stderr)
                raise SystemExit(2) from error
            atexit.register(application.recorders.close)
            globals()["app"] = application.wsgi
        return globals()["app"]
