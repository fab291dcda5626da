"""`python -m fastbg.cli`: the same as `fastbg`."""

import sys

from fastbg.cli import main

sys.exit(main())
