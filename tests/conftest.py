"""Settings of the whole suite."""

import jax
import pytest


@pytest.fixture(autouse=True)
def unoptimized_compilation(request):
    """Compile modules marked `unoptimized` in half the time, but for their tests marked `optimized`."""
    before = jax.config.read("jax_disable_most_optimizations")
    unoptimized = "unoptimized" in request.keywords and "optimized" not in request.keywords
    jax.config.update("jax_disable_most_optimizations", unoptimized)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
