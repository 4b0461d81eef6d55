# SPDX-License-Identifier: Apache-2.0
"""Where generated bases are kept between runs, and what they and generated data are called."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from fedlora.errors import ModelError
from fedlora.training.cache import made_once

NAME = "generated"
"""What `data.source` and `model.base` are called for these."""


def kept_base(recipe: Mapping[str, int], make: Callable[[Path], None]) -> Path:
    """The folder of a generated base in the cache; made where it is not there yet.

    Args:
        recipe: all numbers that the base depends on; with others it is another base.
        make: writes it into a folder.

    Raises:
        ModelError: the cache cannot be written.
    """
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    try:
        return made_once(f"{NAME}-base-{name}", make)
    except OSError as error:
        raise ModelError(
            f"The generated base cannot be kept: {error.filename} cannot be written ({error.strerror}). Set the "
            f"environment variable XDG_CACHE_HOME to a folder that can."
        ) from error
