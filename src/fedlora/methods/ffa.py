# SPDX-License-Identifier: Apache-2.0
"""FFA-LoRA: A stays frozen at its start, B is trained and averaged."""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedlora.core.adapter import OUTPUT, Sides
from fedlora.methods.facts import Facts
from fedlora.methods.one_side import OneSideMixed


@dataclass(frozen=True)
class FFA(OneSideMixed):
    """Freeze the common random A; only B learns.

    Idea: with A equal on all clients the average of B is the average of B A.
    Formula: B += sum_k w_k dB_k.
    What travels: up r_k d_out a module, down r_k d_out; first contact also sends the frozen A.
    Mixed ranks: yes (ours): a missing slot is a zero delta.
    Exact: update (no with `denominator = "owners"`).
    Departures: clients send the change of B, not B, which keeps more bits on a narrow wire.
    Reference: Sun et al., Improving LoRA in Privacy-preserving Federated Learning, arXiv 2403.12313
    (ICLR 2024).
    """

    name: ClassVar[str] = "ffa"

    @property
    def facts(self) -> Facts:
        """LoRA and VeRA alike."""
        return replace(super().facts, kinds=frozenset(("lora", "vera")))

    def trains(self, round: int) -> Sides:
        """Client (and server): always the output side."""
        return OUTPUT
