"""``python -m scalebound`` is the command ``scalebound``."""

import sys

from scalebound.cli import main

sys.exit(main())
