# SPDX-License-Identifier: Apache-2.0
"""The linear maps of a model: which are adapted, and the hook that adapts them."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional

from fedlora.core.lowrank import LowRank
from fedlora.errors import ModelError


class AdaptedMap:
    """A forward hook on one linear map: the base's own output plus s (fold + B A) x.

    Inputs and outputs are (..., d_in) and (..., d_out) for `nn.Linear` and for the transposed `Conv1D` of
    GPT-2 alike, so the hook does not depend on how the base stores its weight.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts: Sequence[LowRank | Tensor] = ()
        self._scale, self._dropout = 1.0, 0.0
        module.register_forward_hook(self._add)

    def wear(self, parts: Sequence[LowRank | Tensor], scale: float, dropout: float) -> None:
        """Add these to the map's weight: the adapter first, whose input may be dropped out, then folds."""
        self._parts, self._scale, self._dropout = parts, scale, dropout

    def bare(self) -> None:
        """Add nothing any more."""
        self._parts = ()

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added: Tensor | None = None
        for number, part in enumerate(self._parts):
            x = inputs[0].to(part.A.dtype if isinstance(part, LowRank) else part.dtype)
            if self._dropout and number == 0:
                x = functional.dropout(x, self._dropout)
            own = (x @ part.A.T) @ part.B.T if isinstance(part, LowRank) else x @ part.T
            added = own if added is None else added + own
        return output if added is None else output + (self._scale * added).to(output.dtype)


def find_maps(model: nn.Module, targets: Sequence[str] | None, layers: Sequence[int] | None) -> dict[str, nn.Module]:
    """The linear maps to adapt, by full name, in the model's order.

    By default every linear map inside the repeated layers; poolers, embeddings and heads are no layers.
    A target is the end of a map's name, whole words between dots: `query`, `attention.output.dense`.

    Raises:
        ModelError: nothing fits; the sentence names some that would.
    """
    found = dict(_layer_maps(model))
    chosen = {
        name: module
        for name, (module, layer) in found.items()
        if (targets is None or any(_ends_with(name, target) for target in targets))
        and (layers is None or layer in layers)
    }
    if not chosen:
        ends = sorted({name.split(".")[-1] for name in found})
        raise ModelError(
            f"No linear map fits adapter.targets = {list(targets or [])} and adapter.layers = {layers}: the layers' "
            f"maps end in {', '.join(ends) or 'nothing known'}."
        )
    return chosen


def _layer_maps(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, int]]]:
    """Every linear map in a repeated layer, with the layer's number."""
    from transformers.pytorch_utils import Conv1D

    encoder = encoder_of(model)
    inside: set[int] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or id(module) in inside:
            continue
        if not any(module is own for own in encoder.modules()):
            continue
        inside.update(id(own) for own in module.modules())
        for number, layer in enumerate(module):
            for inner, part in layer.named_modules():
                if isinstance(part, nn.Linear | Conv1D):
                    yield ".".join(filter(None, (name, str(number), inner))), (part, number)


def encoder_of(model: nn.Module) -> nn.Module:
    """The model without what stands above it."""
    encoder = getattr(model, "base_model", model)
    return encoder if isinstance(encoder, nn.Module) else model


def _ends_with(name: str, target: str) -> bool:
    own, end = name.split("."), target.split(".")
    return own[-len(end) :] == end


def map_shape(module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in), whatever the orientation in which the weight is stored."""
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if isinstance(module, nn.Linear) else (columns, rows)
