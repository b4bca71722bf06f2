"""`python -m gpux`: the command line."""

import sys

from gpux.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
