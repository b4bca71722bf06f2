"""Command-line options, environment and gpux.yml → Settings. Opens no model."""
