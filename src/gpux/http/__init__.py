"""HTTP: servers, the WSGI application, its routes. Sees of a model only what `serving` gives."""
