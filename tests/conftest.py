"""What every test needs: one thread, and generators that a test cannot leave changed."""

import gc
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
# Millions of objects that imports made are looked through at each full collection: a tenth of the tests' time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def generators() -> Iterator[None]:
    """Seed the global generators, so that tests do not depend on each other, and put them back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
