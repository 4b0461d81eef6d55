"""Settings for all tests."""

import pytest
import torch
from hypothesis import settings

from fedlora.training.generated import generated_base


@pytest.fixture(scope="session")
def smallest_base(tmp_path_factory):
    """The folder of a generated base of one layer and width 16. Copy it to change it."""
    folder = tmp_path_factory.mktemp("smallest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return generated_base(width=16, layers=1, steps=20)


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


# A timing is no property of a sum: a busy machine must not make a test fail.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
