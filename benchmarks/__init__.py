"""Benchmarks of jax_a3c: one script per question; `frame` holds what the scripts share."""
