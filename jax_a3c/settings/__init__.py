"""All settings of a run. No module here imports JAX, so that `--help` is quick."""
