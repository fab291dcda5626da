"""`python -m fastbg`: the same as `fastbg`."""

import sys

from fastbg.cli import main

sys.exit(main())
