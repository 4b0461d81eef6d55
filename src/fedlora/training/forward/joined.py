# SPDX-License-Identifier: Apache-2.0
"""A frozen linear map and the pairs of factors beside it as one product, forward and backward.

Left to autograd, every adapted map makes its output three times (the base's, the pairs', their sum) and the gradient
of its input likewise. Here the pairs' part is summed into the base's where that lies already.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.forward.current_pass import Addition, current


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """What pairs of factors, side by side, add to a map's output: an `Addition`."""

    A: Tensor
    """(slots, d_in)."""
    columns: Tensor
    """The columns of B as rows, times the scale: (slots, d_out), contiguous."""
    foreign: Tensor | None = None
    """Which products of slots and tokens (slots, tokens) are set to zero, since they belong to different clients; set,
    not multiplied: what is not finite in one client must not reach another. None: none."""

    def __call__(self, x: Tensor) -> Tensor:
        """B A x of every token of x (..., d_in), as (..., d_out).

        In the one order of these products that is quick forward and backward: a long and narrow matrix is never the
        right factor, whose rows are a few numbers each.
        """
        x = current().in_type(x, self.A.dtype)
        slots = self.A @ x.reshape(-1, x.shape[-1]).T
        foreign = self._foreign(current().rows)
        if foreign is not None:
            slots = slots.masked_fill(foreign, 0.0)
        return (slots.T @ self.columns).view(*x.shape[:-1], self.columns.shape[1])

    def joined(self, module: nn.Module, x: Tensor) -> Tensor:
        """The map's output with what the pairs add, (..., d_out), of inputs (..., d_in).

        Args:
            module: a map that can be joined, see `can_be_joined`.
            x: inputs: of all tokens, or of those for which the map is computed in this pass.
        """
        now = current()
        foreign = self._foreign(now.rows if now.rows is not None else now.tokens_of(module))
        stored: Tensor = module.get_parameter("weight")
        weight = stored if isinstance(module, nn.Linear) else stored.T
        made: Tensor = _Joined.apply(x, weight, module.bias, self.A, self.columns, foreign)  # type: ignore[no-untyped-call]
        return made

    def _foreign(self, rows: Tensor | None) -> Tensor | None:
        return self.foreign if self.foreign is None or rows is None else self.foreign.index_select(1, rows)


def can_be_joined(module: nn.Module, added: Addition | None, x: Tensor) -> bool:
    """Whether a map and what it gets are one product: pairs alone, beside a frozen weight of one type with them."""
    from transformers.pytorch_utils import Conv1D

    if not isinstance(added, Slots) or type(module) not in (nn.Linear, Conv1D):  # a quantised map is a subclass
        return False
    weight = module.get_parameter("weight")
    return not weight.requires_grad and weight.dtype == x.dtype == added.A.dtype


class _Joined(torch.autograd.Function):
    """W x + b + (columns)^T A x, with gradients for x, A and columns."""

    @staticmethod
    def forward(  # noqa: PLR0917 (by position is how autograd hands them over)
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        A: Tensor,
        columns: Tensor,
        foreign: Tensor | None,
    ) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        slots = A @ tokens.T
        if foreign is not None:
            slots.masked_fill_(foreign, 0.0)
        made = functional.linear(tokens, weight, bias).addmm_(slots.T, columns)
        ctx.save_for_backward(tokens, weight, A, columns, slots, foreign)
        return made.view(*x.shape[:-1], columns.shape[1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight, A, columns, slots, foreign = ctx.saved_tensors
        of_x, _, _, of_A, of_columns, _ = ctx.needs_input_grad
        at = slope.reshape(-1, slope.shape[-1])
        by_slot: Tensor = columns @ at.T if of_x or of_A else columns
        if foreign is not None and by_slot is not columns:
            by_slot.masked_fill_(foreign, 0.0)
        return (
            (at @ weight).addmm_(by_slot.T, A).view(*slope.shape[:-1], A.shape[1]) if of_x else None,
            None,
            None,
            by_slot @ tokens if of_A else None,
            slots @ at if of_columns else None,
            None,
        )
