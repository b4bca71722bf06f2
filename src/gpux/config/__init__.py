"""From options, environment and gpux.yml to settings. Pure but for reading the file."""
