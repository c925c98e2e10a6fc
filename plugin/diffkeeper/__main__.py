"""`python -m diffkeeper` is the same program as `diffkeeper`."""

import sys

from diffkeeper.cli.main import main

sys.exit(main())
