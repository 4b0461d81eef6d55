# SPDX-License-Identifier: Apache-2.0
"""The stages between a method and the wire. A user's is named as `file.py:Class`."""

from collections.abc import Mapping

from fedlora.errors import MethodError, nearest
from fedlora.federation.stages.base import Stage
from fedlora.federation.stages.clip import Clip
from fedlora.federation.stages.proximal import FedProx
from fedlora.federation.stages.server_optimizer import FedAdam, FedAvgM
from fedlora.methods.files import class_in_file, require_whole

_CLASSES: tuple[type[Stage], ...] = (FedProx, Clip, FedAvgM, FedAdam)
STAGES: Mapping[str, type[Stage]] = {stage.name: stage for stage in _CLASSES}
"""Every stage that comes with fedlora, by name."""


def find_stage(name: str) -> type[Stage]:
    """The class of a stage: a built-in name, or `path/to/file.py:Class`.

    Raises:
        MethodError: there is no such stage, file or class.
    """
    if ":" in name:
        return require_whole(class_in_file(name, Stage, "Stage"), "Stage")
    if name not in STAGES:
        raise MethodError(f"There is no stage {name!r}: {nearest(name, STAGES)}")
    return STAGES[name]
