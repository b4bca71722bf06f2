"""The command line: `gpux serve`, `run`, `inspect`. May import any package; imported by none."""
