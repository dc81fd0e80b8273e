"""`python -m ingestd` is the command `ingestd`."""

import sys

from ingestd.cli.ingestd import main

if __name__ == "__main__":
    sys.exit(main())
