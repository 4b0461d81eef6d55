# SPDX-License-Identifier: Apache-2.0
"""Sequences end to end: no padding, no mask, and no arithmetic on either.

A pack holds sequences of ascending length, one behind the other, as a single row of tokens with explicit
positions. Every operation of an encoder but attention works on tokens one by one and does not notice; attention is
in `attention.py`.
"""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import Tensor, nn

from fedlora.training.batches import padded
from fedlora.training.current_pass import Addition, Group, Pass, current, running
from fedlora.training.forward.attention import ATTENTION, register
from fedlora.training.maps import encoder_of, owner_of_layers
from fedlora.training.split import Indices
from fedlora.training.tokens import Tokens

Reads = Literal["first", "last"]
"""Which token of a sequence a head reads: encoders the first, decoders the last."""


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
    lasts: Tensor
    """Of each sequence, its last token."""
    member: Tensor
    """Of each token, whose it is."""
    rows: tuple[Tensor, ...]
    """Of each member, which sequences of the pack it gave, in the order in which it gave them."""


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
    member = put(numpy.repeat(owners[order], lengths))
    return Pack(put(ids[None]), put(positions[None]), groups, put(starts), put(starts + lengths - 1), member, rows)


class PackedEncoder:
    """Runs a model's encoder on packs, and its head on what comes out. Several threads may do so at once.

    From here on the model computes attention by `fedlora_packed`, which on inputs that are not packed does what
    it did before.

    Args:
        model: a model for classification, on its device.
        reads: the token of a sequence that its head reads.
    """

    def __init__(self, model: nn.Module, reads: Reads = "first") -> None:
        register()
        self._model, self._encoder = model, encoder_of(model)
        self._layers = _Layers.of(owner_of_layers(model))
        self._offset = _first_position(model)
        self._reads = reads
        config: Any = self._encoder.config
        config._attn_implementation = ATTENTION

    def hidden(
        self, pack: Pack, values: Mapping[str, Tensor], additions: Mapping[str, Addition] | None = None
    ) -> Tensor:
        """The last hidden state of that token of every sequence that the head reads, (sequences, width).

        Args:
            pack: the sequences.
            values: parameters of the whole model that take the place of the resident ones.
            additions: by map, what adapters add.
        """
        inputs: dict[str, Any] = {"input_ids": pack.ids, "position_ids": pack.positions + self._offset}
        if self._reads == "last":
            inputs["use_cache"] = False  # of keys and values, for writing text on
        with running(Pass(additions or {}, pack.groups)) as now:
            if values:
                with self._layers.alone:  # parameters are put into the one model
                    torch.func.functional_call(self._encoder, self._of_encoder(values), args=(), kwargs=inputs)
            else:
                self._encoder(**inputs)
        if now.hidden is None:
            raise RuntimeError("the model has not run its layers")
        return now.hidden.squeeze(0).index_select(0, pack.firsts if self._reads == "first" else pack.lasts)

    def _of_encoder(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's parameters among the model's, by the names that the encoder has for them."""
        prefix = next(name for name, module in self._model.named_modules() if module is self._encoder)
        start = f"{prefix}." if prefix else ""
        return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}

    def logits(self, hidden: Tensor, values: dict[str, Tensor]) -> Tensor:
        """Class scores from hidden states, through all that stands behind the layers.

        The layers are stood in for by what they gave, so that the model's own code makes the scores.

        Args:
            hidden: (sequences, width).
            values: the head's parameters.
        """
        ids = torch.ones(len(hidden), 1, dtype=torch.long, device=hidden.device)
        inputs = {"input_ids": ids, "attention_mask": ids}
        with self._layers.alone, running(Pass(given=hidden[:, None])):
            output = torch.func.functional_call(self._model, values, args=(), kwargs=inputs)
        logits: Tensor = output.logits
        return logits


class _Layers:
    """Wraps the repeated layers' `forward`: records the last hidden state of a pack, or replays a given one."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.alone = threading.RLock()
        """For what only one thread may do with the model at a time."""
        self._forward = forward

    @staticmethod
    def of(module: nn.Module) -> "_Layers":
        """The one of a module; it is put there the first time."""
        found = vars(module).get("forward")
        if not isinstance(found, _Layers):
            found = _Layers(module.forward)
            module.forward = found
        return found

    def __call__(self, *args: Any, **named: Any) -> Any:
        now = current()
        if now.given is not None:
            return _output(now.given)
        output = self._forward(*args, **named)
        if now.groups is not None:
            now.hidden = output if isinstance(output, Tensor) else output[0]
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Layers":
        return _Layers(copy.deepcopy(self._forward, memo))


def _output(state: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=state)


def packed_encoder(model: nn.Module, padding: int) -> PackedEncoder | None:
    """The model's encoder on packs; None where packs do not give the scores of padded batches.

    That, and which token the head reads, is tried and not looked up: architectures are many.
    """
    parameter = next(model.parameters())
    config: Any = encoder_of(model).config
    usual: Any = getattr(config, "_attn_implementation", None)
    tokens = _some_tokens(int(getattr(model.config, "vocab_size", 8)))
    expected = _padded_scores(model, tokens, padding)
    packed = pack(tokens, [numpy.arange(len(tokens))], str(parameter.device))
    tolerance = 1e-4 if parameter.dtype in (torch.float32, torch.float64) else 5e-2
    sides: tuple[Reads, ...] = ("first", "last")
    for reads in sides:
        try:
            encoder = PackedEncoder(model, reads)
            with torch.inference_mode():
                found = encoder.logits(encoder.hidden(packed, {}), {})[packed.rows[0]]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
            break
        if bool((expected - found).abs().max() <= tolerance * (1.0 + expected.abs().max())):
            return encoder
    config._attn_implementation = usual
    return None


def _some_tokens(vocabulary: int) -> Tokens:
    """Four sequences, two of one length."""
    lengths = (3, 4, 4, 7)
    draw = torch.Generator().manual_seed(0)
    top = min(vocabulary, 1000)
    ids = torch.randint(5 if top > 10 else 1, top, (sum(lengths),), generator=draw)
    starts = numpy.concatenate([[0], numpy.cumsum(lengths)])
    return Tokens(ids.numpy().astype(numpy.int32), starts, numpy.zeros(len(lengths), dtype=numpy.int64))


def _padded_scores(model: Any, tokens: Tokens, padding: int) -> Tensor:
    """The class scores as the model gives them on a padded batch."""
    device = str(next(iter(model.parameters())).device)
    ids, mask = padded(tokens, numpy.arange(len(tokens)), padding, device)
    with torch.inference_mode():
        scores: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return scores


def _first_position(model: nn.Module) -> int:
    """The number of a sequence's first position; RoBERTa counts from behind its padding."""
    for name, module in encoder_of(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
