# SPDX-License-Identifier: Apache-2.0
"""Packages that only some metrics need."""

from importlib import import_module
from typing import Any

from fedlora.errors import ConfigError


def optional_package(module: str, package: str, metric: str) -> Any:
    """A module of the extra `generate`.

    Args:
        module: to import.
        package: that has it.
        metric: that needs it.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{metric} needs the package {package}, which is not installed: pip install 'fedlora[generate]', or leave "
            f"{metric} out of evaluate.metrics."
        ) from error
