"""`python -m lib_layerdiffusion`."""

import sys

from lib_layerdiffusion.cli import main

sys.exit(main())
