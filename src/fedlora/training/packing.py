# SPDX-License-Identifier: Apache-2.0
"""Sequences end to end: no padding, no mask, and no arithmetic on either.

A pack holds sequences of ascending length, one behind the other, as a single row of tokens with explicit
positions. Every operation of an encoder but attention works on tokens one by one and does not notice.
Attention is computed by groups of equal length, each an ordinary dense batch without a mask; the function
is registered by name with transformers, so that this is written once and not per architecture.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.training.maps import encoder_of
from fedlora.training.split import Indices
from fedlora.training.tokens import Tokens

ATTENTION = "fedlora_packed"
"""The name under which transformers finds the attention function."""

Group = tuple[int, int, int]
"""(first token, sequences, tokens of each)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Sequences of several members, shortest first."""

    ids: Tensor
    """(1, tokens)."""
    positions: Tensor
    """(1, tokens): of each token, its place in its sequence."""
    groups: tuple[Group, ...]
    firsts: Tensor
    """Of each sequence, its first token."""
    member: Tensor
    """Of each token, whose it is."""
    rows: tuple[Tensor, ...]
    """Of each member, which sequences of the pack are its own, in the order in which it gave them."""


def pack(tokens: Tokens, batches: Sequence[Indices], device: str) -> Pack:
    """Lay batches of examples end to end, over all members by length.

    Args:
        tokens: of all examples.
        batches: a batch of each member.
        device: where to put them.
    """
    examples = numpy.concatenate(batches)
    owners = numpy.repeat(numpy.arange(len(batches)), [len(batch) for batch in batches])
    order = numpy.argsort(tokens.lengths[examples], kind="stable")
    place = numpy.empty(len(order), dtype=numpy.int64)
    place[order] = numpy.arange(len(order))
    lengths = tokens.lengths[examples][order]
    starts = numpy.cumsum(lengths) - lengths
    ids = numpy.concatenate([tokens[example] for example in examples[order]])
    positions = numpy.arange(len(ids)) - numpy.repeat(starts, lengths)
    sizes, first, count = numpy.unique(lengths, return_index=True, return_counts=True)
    groups = tuple((int(starts[f]), int(n), int(size)) for size, f, n in zip(sizes, first, count, strict=True))

    def put(array: Any) -> Tensor:
        return torch.from_numpy(numpy.ascontiguousarray(array, dtype=numpy.int64)).to(device)

    own = tuple(put(place[owners == number]) for number in range(len(batches)))
    member = put(numpy.repeat(owners[order], lengths))
    return Pack(put(ids[None]), put(positions[None]), groups, put(starts), member, own)


class PackedEncoder:
    """Runs a model's encoder on packs, and its head on what comes out. Several threads may do so at once.

    From here on the model computes attention by `_attention`, which on inputs that are not packed does what
    it did before.

    Args:
        model: an encoder for classification, on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        _register()
        self._model, self._encoder = model, encoder_of(model)
        self._layers = _Layers.of(_owner_of_layers(model))
        self._offset = _first_position(model)
        config: Any = self._encoder.config
        config._attn_implementation = ATTENTION

    def hidden(self, pack: Pack, values: Mapping[str, Tensor]) -> Tensor:
        """The last hidden state of the first token of every sequence, (sequences, width).

        Args:
            pack: the sequences.
            values: parameters of the whole model that take the place of its own.
        """
        inputs = {"input_ids": pack.ids, "position_ids": pack.positions + self._offset}
        _way.groups = pack.groups
        try:
            if values:
                with self._layers.alone:  # parameters are put into the one model
                    torch.func.functional_call(self._encoder, self._own(values), args=(), kwargs=inputs)
            else:
                self._encoder(**inputs)
        finally:
            _way.groups = None
        return self._layers.taken()[0, pack.firsts]

    def _own(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's parameters among the model's, by its own names."""
        prefix = next(name for name, module in self._model.named_modules() if module is self._encoder)
        start = f"{prefix}." if prefix else ""
        return {name.removeprefix(start): own for name, own in values.items() if name.startswith(start)}

    def logits(self, hidden: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Class scores from hidden states, through all that stands behind the layers.

        The layers are stood in for by what they gave, so that the model's own code makes the scores.

        Args:
            hidden: (sequences, width).
            values: the head's parameters.
        """
        ids = torch.ones(len(hidden), 1, dtype=torch.long, device=hidden.device)
        inputs = {"input_ids": ids, "attention_mask": ids}
        with self._layers.alone, self._layers.instead(hidden[:, None]):
            output = torch.func.functional_call(self._model, values, args=(), kwargs=inputs)
        logits: Tensor = output.logits
        return logits


class _Layers:
    """Stands at the place of the repeated layers' `forward`: takes what they give, or gives what was taken."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.alone = threading.RLock()
        """For what only one thread may do with the model at a time."""
        self._forward = forward
        self._way = threading.local()

    @staticmethod
    def of(module: nn.Module) -> "_Layers":
        """The one of a module; it is put there the first time."""
        found = vars(module).get("forward")
        if not isinstance(found, _Layers):
            found = _Layers(module.forward)
            module.forward = found
        return found

    def __call__(self, *args: Any, **named: Any) -> Any:
        given = getattr(self._way, "given", None)
        if given is not None:
            return _output(given)
        output = self._forward(*args, **named)
        if _way.groups is not None:
            self._way.taken = output if isinstance(output, Tensor) else output[0]
        return output

    def taken(self) -> Tensor:
        """The last hidden state of this thread's last pass."""
        state: Tensor = self._way.taken
        del self._way.taken
        return state

    @contextmanager
    def instead(self, state: Tensor) -> Iterator[None]:
        """Let the layers answer with a given last hidden state, in this thread."""
        self._way.given = state
        try:
            yield
        finally:
            self._way.given = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Layers":
        return _Layers(copy.deepcopy(self._forward, memo))


def _output(state: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=state)


def agrees(model: nn.Module, padding: int) -> bool:
    """Whether a model gives the same scores packed as padded: tried, not looked up."""
    parameter = next(model.parameters())
    config: Any = encoder_of(model).config
    usual: Any = getattr(config, "_attn_implementation", None)
    lengths = (3, 4, 4, 7)
    draw = torch.Generator().manual_seed(0)
    top = min(int(getattr(model.config, "vocab_size", 8)), 1000)
    rows = [torch.randint(5 if top > 10 else 1, top, (length,), generator=draw) for length in lengths]
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    tokens = Tokens(torch.cat(rows).numpy().astype(numpy.int32), starts, numpy.zeros(len(rows), dtype=numpy.int64))
    ids = torch.full((len(rows), max(lengths)), padding)
    mask = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, 1
    try:
        with torch.inference_mode():
            model_any: Any = model
            padded = model_any(input_ids=ids.to(parameter.device), attention_mask=mask.to(parameter.device)).logits
            encoder = PackedEncoder(model)
            own = pack(tokens, [numpy.arange(len(rows))], str(parameter.device))
            packed = encoder.logits(encoder.hidden(own, {}), {})[own.rows[0]]
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
        packed = torch.full((), torch.inf)
    tolerance = 1e-4 if parameter.dtype in (torch.float32, torch.float64) else 5e-2
    same = bool((padded - packed).abs().max() <= tolerance * (1.0 + padded.abs().max()))
    if not same:
        config._attn_implementation = usual
    return same


class _Way(threading.local):
    groups: tuple[Group, ...] | None = None
    """Of the pack that this thread has under way; None: padded batches."""


_way = _Way()


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _mask)


def _mask(*args: Any, **named: Any) -> Any:
    """Groups of equal length need none."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **named) if _way.groups is None else None


def _attention(  # noqa: PLR0917 (the signature is that of transformers)
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention within every sequence; all of (1, heads, tokens, width), the result (1, tokens, heads, width)."""
    if _way.groups is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        usual = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window}
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **usual, **others
        )
        return found
    q, k, v = (own[0].transpose(0, 1) for own in (query, key, value))  # (tokens, heads, width)
    parts = []
    for first, count, length in _way.groups:
        q_own, k_own, v_own = (
            own[first : first + count * length].view(count, length, *own.shape[1:]).transpose(1, 2) for own in (q, k, v)
        )
        mask = None if sliding_window is None or length <= sliding_window else _band(length, sliding_window, q.device)
        own = functional.scaled_dot_product_attention(q_own, k_own, v_own, attn_mask=mask, scale=scaling)
        parts.append(own.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[None], None


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which tokens see which, where a layer looks only so far to both sides."""
    place = torch.arange(length, device=device)
    return (place[:, None] - place[None]).abs() < window


def _owner_of_layers(model: nn.Module) -> nn.Module:
    """The module that runs the repeated layers: the one that owns the outermost list of them."""
    encoder = encoder_of(model)
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList):
            return encoder.get_submodule(name.rpartition(".")[0])
    raise ValueError("this model has no repeated layers")


def _first_position(model: nn.Module) -> int:
    """The number of a sequence's first position; RoBERTa counts from behind its padding."""
    for name, module in encoder_of(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
