# SPDX-License-Identifier: Apache-2.0
"""The linear maps of a model: which are adapted, and the hook that adapts them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.core.lowrank import LowRank
from fedlora.errors import ModelError
from fedlora.training.forward.current_pass import Addition, current
from fedlora.training.forward.joined import Slots, can_be_joined


def adapt(name: str, module: nn.Module) -> None:
    """Hook one linear map: from now on its output gets what the current pass adds to a map of this name.

    Inputs and outputs are (..., d_in) and (..., d_out) for `nn.Linear` and for the transposed `Conv1D` of
    GPT-2 alike. Where map and addition are one product (`forward/joined.py`), that takes the place of the map's own
    `forward`; else a hook adds to the output, however the base keeps its weight.
    """

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        now = current()
        added = now.additions.get(name)
        if added is None or now.skips(module) or can_be_joined(module, added, inputs[0]):
            return output
        return output + added(inputs[0]).to(output.dtype)

    module.forward = _Adapted(name, module, module.forward)
    module.register_forward_hook(add)


class _Adapted:
    """Wraps the `forward` of an adapted map."""

    def __init__(self, name: str, module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        self._name, self._module, self._forward = name, module, forward

    def __call__(self, x: Tensor) -> Tensor:
        added = current().additions.get(self._name)
        if isinstance(added, Slots) and can_be_joined(self._module, added, x):
            return added.joined(self._module, x)
        return self._forward(x)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Adapted":
        return _Adapted(self._name, copy.deepcopy(self._module, memo), copy.deepcopy(self._forward, memo))


def addition(parts: Sequence[LowRank | Tensor], scale: float, dropout: float) -> Addition:
    """s (merged update + B A) x of one map, for one client.

    The scale meets the weights once a pass, and not what every token makes of them.

    Args:
        parts: the adapter, whose input may be dropped out, then what was merged.
        scale: s.
        dropout: probability.
    """
    scaled = [Slots(p.A, (scale * p.B).T.contiguous()) if isinstance(p, LowRank) else scale * p for p in parts]

    def added(x: Tensor) -> Tensor:
        total: Tensor | None = None
        for number, part in enumerate(scaled):
            cast = current().in_type(x, part.A.dtype if isinstance(part, Slots) else part.dtype)
            if dropout and number == 0:
                cast = functional.dropout(cast, dropout)
            product = part(cast) if isinstance(part, Slots) else cast @ part.T
            total = product if total is None else total + product
        return torch.zeros(()) if total is None else total

    return added


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
        if not any(module is other for other in encoder.modules()):
            continue
        inside.update(id(other) for other in module.modules())
        for number, layer in enumerate(module):
            for inner, part in layer.named_modules():
                if isinstance(part, nn.Linear | Conv1D):
                    yield ".".join(filter(None, (name, str(number), inner))), (part, number)


def encoder_of(model: nn.Module) -> nn.Module:
    """The model without what stands above it."""
    encoder = getattr(model, "base_model", model)
    return encoder if isinstance(encoder, nn.Module) else model


def repeated_layers(encoder: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that runs an encoder's repeated layers, and these: the outermost list of modules.

    Raises:
        ValueError: it has none.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList):
            return encoder.get_submodule(name.rpartition(".")[0]), module
    raise ValueError("this model has no repeated layers")


def _ends_with(name: str, target: str) -> bool:
    words, end = name.split("."), target.split(".")
    return words[-len(end) :] == end


def map_shape(module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in), whatever the orientation in which the weight is stored."""
    if isinstance(module, nn.Linear):  # a quantised weight has another shape
        return module.out_features, module.in_features
    d_in, d_out = module.get_parameter("weight").shape
    return d_out, d_in
