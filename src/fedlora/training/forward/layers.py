# SPDX-License-Identifier: Apache-2.0
"""The repeated layers of a model as passes see them, whatever the architecture.

Every layer's `forward` is wrapped, and so is that of the module that runs them. Outside packs they do what they did.
On a pack a pass may take what layers give from elsewhere: from a recorded last hidden state, or, for the layers below
one, from states that are known beforehand; and it may have the last layer computed for one token a sequence.
"""

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedlora.training.bases.maps import map_shape, repeated_layers
from fedlora.training.forward.current_pass import KeysTaken, LastLayer, Pass, PassEnded, current, running


class Layers:
    """Wraps the `forward` of the module that runs the repeated layers: records the last hidden state of a pack, or
    replays a given one."""

    def __init__(self, forward: Callable[..., Any], layers: nn.ModuleList) -> None:
        self.alone = threading.RLock()
        """For what only one thread may do with the model at a time."""
        self._forward, self._layers = forward, layers

    @staticmethod
    def of(encoder: nn.Module) -> "Layers":
        """Those of an encoder; they are wrapped the first time.

        Raises:
            ValueError: it has no repeated layers.
        """
        owner, layers = repeated_layers(encoder)
        found = vars(owner).get("forward")
        if not isinstance(found, Layers):
            found = Layers(owner.forward, layers)
            owner.forward = found
            for number, layer in enumerate(layers):
                layer.forward = _Layer(layer.forward, number, number == len(layers) - 1)
            for module in found.maps_of_last():
                module.forward = _IdleMap(module, module.forward, map_shape(module)[0])
        return found

    def number_of(self, model: nn.Module, name: str) -> int | None:
        """The number of the layer in which a module or parameter lies, by its full name in a model; None: in none."""
        for prefix, module in model.named_modules():
            if module is self._layers and name.startswith(f"{prefix}."):
                return int(name.removeprefix(f"{prefix}.").partition(".")[0])
        return None

    def maps_of_last(self) -> list[nn.Module]:
        """The linear maps of the last layer."""
        from transformers.pytorch_utils import Conv1D

        return [module for module in self._layers[-1].modules() if isinstance(module, nn.Linear | Conv1D)]

    def __call__(self, *args: Any, **named: Any) -> Any:
        """What the module gives, or what the pass has in its place."""
        now = current()
        if now.given is not None:
            return _output(now.given)
        output = self._forward(*args, **named)
        if now.groups is not None:
            now.hidden = output if isinstance(output, Tensor) else output[0]
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "Layers":
        return Layers(copy.deepcopy(self._forward, memo), copy.deepcopy(self._layers, memo))


class _Layer:
    """Wraps the `forward` of one of the repeated layers."""

    def __init__(self, forward: Callable[..., Any], number: int, is_last: bool) -> None:
        self._forward, self._number, self._is_last = forward, number, is_last

    def __call__(self, *args: Any, **named: Any) -> Any:
        now = current()
        if now.until == self._number:
            now.hidden = _input(args, named)
            raise PassEnded
        if now.below is not None and self._number < now.below.layer:
            return _input(args, named)
        if now.below is not None and self._number == now.below.layer:
            args, named = _with_input(now.below.states, args, named)
            now.below = None  # a layer that is run more than once takes it the first time
        if now.last is not None and self._is_last:
            return self._of_read_tokens(now.last, args, named)
        if now.checkpointing and torch.is_grad_enabled():
            return checkpoint(partial(_again, self._forward, now), *args, use_reentrant=False, **named)
        return self._forward(*args, **named)

    def _of_read_tokens(self, last: LastLayer, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The layer's output for the read tokens, (1, sequences, width)."""
        if last.keys is not None:
            raise RuntimeError("the last layer is run more than once")
        whole = _input(args, named)
        last.under_way = True
        try:
            with suppress(KeysTaken):
                self._forward(*args, **named)
            if last.keys is None:
                raise RuntimeError("the last layer does not call the attention function")
            args, named = _chosen((args, named), whole.shape[1], last.tokens)
            output = self._forward(*args, **named)
        finally:
            last.under_way = False
        return torch.zeros_like(whole).index_copy(1, last.tokens, output) if last.placed else output

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Layer":
        return _Layer(copy.deepcopy(self._forward, memo), self._number, self._is_last)


class _IdleMap:
    """Wraps the `forward` of a map of the last layer: for tokens of which nobody asks what it gives, that is zeros."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any], width: int) -> None:
        self._module, self._forward, self._width = module, forward, width

    def __call__(self, x: Tensor) -> Any:
        now = current()
        if now.skips(self._module):
            return x.new_zeros(()).expand(*x.shape[:-1], self._width)
        tokens = now.tokens_of(self._module)
        if tokens is None:
            return self._forward(x)
        made = self._forward(x.index_select(1, tokens))
        return made.new_zeros(*x.shape[:-1], self._width).index_copy(1, tokens, made)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_IdleMap":
        return _IdleMap(copy.deepcopy(self._module, memo), copy.deepcopy(self._forward, memo), self._width)


def _again(forward: Callable[..., Any], now: Pass, *args: Any, **named: Any) -> Any:
    """A layer in the pass that it belongs to; the backward pass may run in another thread, and after that pass."""
    with running(now):
        return forward(*args, **named)


def _input(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The hidden states (1, tokens, width) among a layer's arguments."""
    states: Tensor = args[0] if args else named["hidden_states"]
    return states


def _with_input(states: Tensor, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with other hidden states."""
    return ((states, *args[1:]), named) if args else (args, {**named, "hidden_states": states})


def _chosen(value: Any, tokens: int, rows: Tensor) -> Any:
    """Arguments of a layer for some tokens: of every tensor (1, tokens, ...) among them these rows."""
    if isinstance(value, Tensor):
        return value.index_select(1, rows) if value.shape[:2] == (1, tokens) else value
    if isinstance(value, tuple):
        return tuple(_chosen(part, tokens, rows) for part in value)
    if isinstance(value, dict):
        return {key: _chosen(part, tokens, rows) for key, part in value.items()}
    return value


def _output(state: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=state)
