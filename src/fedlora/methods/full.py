# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning by FedAvg: what adapters are measured against."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.methods.facts import Facts
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

    @property
    def facts(self) -> Facts:
        """The mean of parameters is exact."""
        return self.by_centre(replace(super().facts, kinds=frozenset({"dense"}), exact="update"))
