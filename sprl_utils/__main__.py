"""``python -m sprl_utils``: the command line, see `sprl_utils.scans.cli`."""

import sys

from sprl_utils.scans.cli import main

sys.exit(main())
