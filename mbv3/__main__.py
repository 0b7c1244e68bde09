"""`python -m mbv3`, which is `mbv3`: torchrun starts modules."""

import sys

from mbv3.cli import main

if __name__ == "__main__":
    sys.exit(main())
