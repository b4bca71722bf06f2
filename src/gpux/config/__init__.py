"""Command-line options, environment and gpux.yml → Settings. Pure but for reading the file."""
