"""`python -m etude` is the same as `etude`."""

import sys

from etude.cli.main import main

sys.exit(main())
