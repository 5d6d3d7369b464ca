"""`python -m bench.nightly`."""

import sys

from bench.nightly.night import main

if __name__ == "__main__":
    sys.exit(main())
