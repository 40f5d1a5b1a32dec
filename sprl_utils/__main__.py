"""``python -m sprl_utils``: the command line, see `sprl_utils.cli`."""

import sys

from sprl_utils.cli import main

sys.exit(main())
