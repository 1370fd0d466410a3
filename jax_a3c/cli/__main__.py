"""`python -m jax_a3c.cli`."""

import sys

from jax_a3c.cli.entry import run

sys.exit(run())
