"""`python -m lib_layerdiffusion`."""

import sys

from lib_layerdiffusion.cli import command

if __name__ == "__main__":  # processes of a pool import this module as well
    sys.exit(command())
