"""HTTP: servers, the WSGI application, its routes. Reaches the model through `serving`."""
