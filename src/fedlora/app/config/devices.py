# SPDX-License-Identifier: Apache-2.0
"""The devices of a config: whether they can be used here, and together."""

import torch

from fedlora.app.config.schema import Config
from fedlora.errors import ConfigError


def require_usable(config: Config) -> None:
    """Refuse devices that are not there, or that cannot share a run.

    Raises:
        ConfigError: with one sentence about what does not fit.
    """
    devices = config.run.devices
    for device in devices:
        try:
            torch.ones(1, device=device).cpu()  # a device without numbers, such as meta, gives none back
        except (RuntimeError, AssertionError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"run.device is {device!r}, which cannot be used here: {first}") from error
    kinds = sorted({torch.device(device).type for device in devices})
    if len(kinds) > 1:
        raise ConfigError(
            f"run.device is {list(devices)}, devices of different kinds ({', '.join(kinds)}), of which "
            f"the slowest would hold up the others: name devices of one kind."
        )
    if len(devices) > 1 and config.train.dropout > 0.0:
        raise ConfigError(
            f"run.device names {len(devices)} devices and train.dropout is {config.train.dropout}, but dropout draws "
            f"from one generator, in turn: name one device, or set train.dropout = 0."
        )
