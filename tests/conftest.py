"""Settings for all tests."""

import pytest
import torch
from hypothesis import settings


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


# A timing is no property of a sum: a busy machine must not make a test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
