"""The command line."""

from jax_a3c.cli.entry import main, run

__all__ = ["main", "run"]
