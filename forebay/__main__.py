"""`python -m forebay` is the command line."""

import sys

from forebay.cli import main

sys.exit(main())
