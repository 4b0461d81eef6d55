# SPDX-License-Identifier: Apache-2.0
"""Tensors that train with one learning rate, end to end in one vector: a step is a few operations, not a few a tensor.

Forward passes and penalties see the tensors one by one; optimiser, mask and sums of gradients see the vector.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlora.core.adapter import Tensors


class Leaves:
    """Copies of some tensors as leaves that need gradients, each a view of one vector.

    Args:
        tensors: their values; all of one type.
        device: where the copies go.
    """

    def __init__(self, tensors: Tensors, device: str) -> None:
        self.vector = torch.cat([tensor.detach().reshape(-1).to(device) for tensor in tensors.values()])
        """All of them end to end; what changes it changes the leaves."""
        cut = torch.split(self.vector, [tensor.numel() for tensor in tensors.values()])
        self.named: dict[str, Tensor] = {
            name: part.detach().view(tensor.shape).requires_grad_()
            for (name, tensor), part in zip(tensors.items(), cut, strict=True)
        }
        """The leaves by name, in the order given."""
        self._moves: Tensor | None = None
        self._before: Tensor | None = None

    def hold(self, moves: Mapping[str, Tensor]) -> None:
        """Keep some numbers where they are now, whatever steps are taken.

        Args:
            moves: by name, what may move, in a shape that meets the leaf's; leaves that are not named move.
        """
        every = torch.ones((), dtype=torch.bool, device=self.vector.device)
        parts = [moves.get(name, every).to(every.device).expand(leaf.shape) for name, leaf in self.named.items()]
        self._moves, self._before = torch.cat([part.reshape(-1) for part in parts]), self.vector.clone()

    def forget_gradient(self) -> None:
        """Start a gradient afresh."""
        self.vector.grad = None
        for leaf in self.named.values():
            leaf.grad = None

    def gradient(self) -> Tensor:
        """The gradient so far as a vector of its own; zero where there is none."""
        leaves = self.named.values()
        return torch.cat([(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).reshape(-1) for leaf in leaves])

    def ready_gradient(self) -> None:
        """Move the gradient to the vector, for an optimiser; zero where a number is held."""
        gradient = self.gradient()
        self.forget_gradient()
        self.vector.grad = gradient if self._moves is None else gradient.mul_(self._moves)

    def restore_held(self) -> None:
        """Undo what a step did to numbers that are held: weight decay moves them without a gradient."""
        if self._moves is not None and self._before is not None:
            self.vector.copy_(torch.where(self._moves, self.vector, self._before))

    def cut(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector over all of them, cut like them, on the CPU; each a tensor of its own."""
        parts = torch.split(vector.cpu(), [leaf.numel() for leaf in self.named.values()])
        return {
            name: part.view(leaf.shape).clone() for (name, leaf), part in zip(self.named.items(), parts, strict=True)
        }
