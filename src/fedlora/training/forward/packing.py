# SPDX-License-Identifier: Apache-2.0
"""Sequences end to end: no padding, no mask, and no arithmetic on either.

A pack holds sequences of ascending length, one behind the other, as a single row of tokens with explicit
positions. Every operation of an encoder but attention works on tokens one by one and does not notice; attention is
in `attention.py`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn

from fedlora.training.bases.maps import encoder_of
from fedlora.training.bases.quantized import is_quantized
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.attention import ATTENTION, register
from fedlora.training.forward.current_pass import (
    Addition,
    Below,
    ClientOrder,
    Group,
    LastLayer,
    Narrowed,
    Pass,
    PassEnded,
    Read,
    Reads,
    running,
)
from fedlora.training.forward.layers import Layers

Form = Literal["whole", "read", "placed"]
"""For which tokens the last layer is computed: for all, or, keys and values apart, for those that the head reads;
placed: likewise, and put into their places in the pack, for a model that wants as many tokens as it was given."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Sequences of several members, shortest first."""

    ids: Tensor
    """(1, tokens)."""
    examples: Indices
    """Of each sequence, which example it is."""
    positions: Tensor
    """(1, tokens): of each token, its place in its sequence."""
    groups: tuple[Group, ...]
    firsts: Tensor
    """Of each sequence, its first token."""
    lasts: Tensor
    """Of each sequence, its last token."""
    member: Tensor
    """Of each token, whose it is."""
    rows: tuple[Tensor, ...]
    """Of each member, which sequences of the pack it gave, in the order in which it gave them."""
    predicting: tuple[Tensor, ...] = ()
    """Of each member, the tokens that stand before supervised ones, in the order in which it gave them; none where
    nothing is supervised."""
    order: ClientOrder | None = None
    """Of a pack whose tokens lie client by client, see `client_order.py`; None: they lie by length."""


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

    rows = tuple(put(place[owners == number]) for number in range(len(batches)))
    before = [starts[at] + tokens.predicting(example) for at, example in zip(place, examples.tolist(), strict=True)]
    ends = numpy.cumsum([len(batch) for batch in batches]).tolist()
    predicting = [before[first:end] for first, end in pairwise([0, *ends])] if tokens.supervised is not None else []
    member = put(numpy.repeat(owners[order], lengths))
    return Pack(
        put(ids[None]),
        examples[order],
        put(positions[None]),
        groups,
        put(starts),
        put(starts + lengths - 1),
        member,
        rows,
        tuple(put(numpy.concatenate(places)) for places in predicting),
    )


class PackedEncoder:
    """Runs a model's encoder on packs, and its head on what comes out. Several threads may do so at once.

    From here on the model computes attention by `fedlora_packed`, which on inputs that are not packed does what
    it did before.

    Args:
        model: a classifier or a language model, on its device.
        reads: which tokens its head reads.
        last_layer: for which tokens the last layer is computed.
    """

    def __init__(self, model: nn.Module, reads: Reads = "first", last_layer: Form = "whole") -> None:
        register()
        self._model, self._encoder = model, encoder_of(model)
        self._layers = Layers.of(self._encoder)
        self._offset = _first_position(model)
        self._reads = reads
        self.last_layer = last_layer
        """For which tokens the last layer is computed."""
        self.idle: frozenset[nn.Module] = frozenset()
        """The maps of the last layer that are left out where only its keys and values are asked for."""
        self.whole = self if last_layer == "whole" else PackedEncoder(model, reads)
        """The encoder that computes it for all tokens."""
        config: Any = self._encoder.config
        config._attn_implementation = ATTENTION

    def hidden(
        self,
        pack: Pack,
        values: Mapping[str, Tensor],
        additions: Mapping[str, Addition] | None = None,
        below: Below | None = None,
        *,
        checkpointing: bool = False,
    ) -> Tensor:
        """The last hidden state of that token of every sequence that the head reads, (sequences, width); of a language
        model, that of every token, (tokens, width).

        Args:
            pack: the sequences.
            values: parameters of the whole model that take the place of the resident ones.
            additions: by map, what adapters add.
            below: what the layers below one give; None: they are computed.
            checkpointing: whether layers are computed again in the backward pass; not where `values` take the place of
                their parameters, which are gone by then.
        """
        last, again = self._new_last(pack), checkpointing and not values
        now = Pass(
            additions or {},
            pack.groups,
            pack.order,
            last=last,
            below=below,
            narrowed=self._new_narrowed(pack),
            checkpointing=again,
        )
        hidden = self._run(pack, values, now)
        if self._reads == "predicting" or self.last_layer == "read":
            return hidden
        return hidden.index_select(0, _read(pack, self._reads))

    def read_by(self, pack: Pack) -> tuple[Tensor, ...]:
        """Of each member of a pack, the rows of `hidden` that its head reads, in the member's order."""
        return pack.predicting if self._reads == "predicting" else pack.rows

    def _new_last(self, pack: Pack) -> LastLayer | None:
        if self.last_layer == "whole" or self._reads == "predicting":
            return None
        return LastLayer(self._reads, _read(pack, self._reads), self.last_layer == "placed", self.idle)

    def _new_narrowed(self, pack: Pack) -> Narrowed | None:
        """Of a language model, the maps of the last layer that are computed for the read tokens alone."""
        if self._reads != "predicting" or not self.idle or not pack.predicting:
            return None
        return Narrowed(self.idle, torch.cat(pack.predicting).sort().values)

    def without_idle_maps(self, pack: Pack) -> "PackedEncoder":
        """The same, in which maps on which the last layer's keys and values do not depend are left out where only these
        are asked for, if there are such: what makes queries alone. A map is one if it gets no gradient from them.

        A language model's are computed for the read tokens alone.

        Args:
            pack: any sequences.
        """
        last, maps = self._new_last(pack), self._layers.maps_of_last()
        if self._reads == "predicting":
            last = LastLayer("last", pack.lasts, placed=True)  # it leaves the keys and values, and no more is asked
        if last is None or is_quantized(self._model):  # whose weights take no gradient
            return self
        weights = [module.get_parameter("weight") for module in maps]
        before = [weight.requires_grad for weight in weights]
        for weight in weights:
            weight.requires_grad_()
        try:
            with torch.enable_grad():
                self._run(pack, {}, Pass({}, pack.groups, last=last))
            taken = [part.sum() for part in (last.keys, last.values) if part is not None]
            gradients = torch.autograd.grad(taken, weights, allow_unused=True)
        finally:
            for weight, trained in zip(weights, before, strict=True):
                weight.requires_grad_(trained)
        self.idle = frozenset(module for module, found in zip(maps, gradients, strict=True) if found is None)
        return self

    def states(self, pack: Pack, layer: int) -> Tensor:
        """What the layers below one give without any adapter, (tokens, width).

        Args:
            pack: the sequences.
            layer: the number of the first layer that is not computed.
        """
        return self._run(pack, {}, Pass({}, pack.groups, pack.order, until=layer))

    def layer_of(self, name: str) -> int | None:
        """In which of the repeated layers a module or parameter of the model lies; None: in none.

        Args:
            name: the full one in the model.
        """
        return self._layers.number_of(self._model, name)

    def _run(self, pack: Pack, values: Mapping[str, Tensor], now: Pass) -> Tensor:
        """The hidden state that a pass ends with, without its first axis."""
        inputs: dict[str, Any] = {"input_ids": pack.ids, "position_ids": pack.positions + self._offset}
        if self._reads != "first":
            inputs["use_cache"] = False  # of keys and values, for writing text on
        with running(now), suppress(PassEnded):
            if values:
                with self._layers.alone:  # parameters are put into the one model
                    torch.func.functional_call(self._encoder, self._of_encoder(values), args=(), kwargs=inputs)
            else:
                self._encoder(**inputs)
        if now.hidden is None:
            raise RuntimeError("the model has not run its layers")
        return now.hidden.squeeze(0)

    def _of_encoder(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's parameters among the model's, by the names that the encoder has for them."""
        prefix = next(name for name, module in self._model.named_modules() if module is self._encoder)
        start = f"{prefix}." if prefix else ""
        return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}

    def logits(self, hidden: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Logits (n, classes) from hidden states, through all that stands behind the layers.

        The layers are stood in for by what they gave, so that the model's own code makes the logits.

        Args:
            hidden: (n, width).
            values: the head's parameters.
        """
        ids = torch.ones(len(hidden), 1, dtype=torch.long, device=hidden.device)
        inputs = {"input_ids": ids, "attention_mask": ids}
        with running(Pass(given=hidden[:, None])):
            if values:
                with self._layers.alone:  # parameters are put into the one model
                    output = torch.func.functional_call(self._model, values, args=(), kwargs=inputs)
            else:
                output = self._model(**inputs)
        logits: Tensor = output.logits
        return logits.squeeze(1) if self._reads == "predicting" else logits


def _read(pack: Pack, reads: Read) -> Tensor:
    """Of each sequence, the place of the token that a classifier's head reads."""
    return pack.firsts if reads == "first" else pack.lasts


def _first_position(model: nn.Module) -> int:
    """The number of a sequence's first position; RoBERTa counts from behind its padding."""
    for name, module in encoder_of(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
