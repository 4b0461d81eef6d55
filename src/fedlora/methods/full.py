# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning by FedAvg: what adapters are measured against."""

from dataclasses import dataclass
from typing import ClassVar

from fedlora.core.kinds import Kind
from fedlora.methods.base import Exact
from fedlora.methods.fedit import FedIT


@dataclass(frozen=True)
class Full(FedIT):
    """Every client trains all parameters; the server averages them.

    Idea: the score that adapters should reach, and the bytes that they should not need.
    Formula: D = sum_k w_k D_k, where D is the change of a parameter since the pretrained base.
    What travels: up every parameter, down the same.
    Mixed ranks: no; there is no rank.
    Exact: update.
    Departures: the change since the base travels, not the parameter: as many numbers, more bits on a narrow
    wire.
    Reference: McMahan et al., Communication-Efficient Learning of Deep Networks, arXiv 1602.05629
    (AISTATS 2017).
    """

    name: ClassVar[str] = "full"
    kinds: ClassVar[frozenset[Kind]] = frozenset({"dense"})
    exact: ClassVar[Exact] = "update"
