"""`gpux.asgi:app` for any ASGI server: `GPUX_MODEL=PATH uvicorn gpux.asgi:app`.

Nothing is done at import. The settings come from the environment (see config/settings.py), and the
model is loaded, when the server starts the app (ASGI's lifespan), or else by the first request.
"""

import os

from gpux.config.settings import read_settings
from gpux.http.asgi_app import AsgiApp

__all__ = ["app"]

# Not made on first access, as gpux.wsgi's is: hypercorn does not ask for attributes that a module
# makes by its __getattr__.
app = AsgiApp(lambda: read_settings(os.environ, {}), os.environ)
