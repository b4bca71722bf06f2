"""The command line: `gpux serve`, `run`, `inspect`. Imports everything; nothing imports it."""
