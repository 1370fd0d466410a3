"""Settings of the whole suite."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Compile without most optimisations, which takes half the time, unless a test is marked `optimized`."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", "optimized" not in request.keywords)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
