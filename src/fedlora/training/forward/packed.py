# SPDX-License-Identifier: Apache-2.0
"""The fast one: packed sequences, and the adapters of several clients on one frozen base in one pass.

What it gives is what the padded forward gives, client by client, but for rounding. Clients' sequences lie in one
pack, and every adapted map adds to each token what its own client's factors make of it.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.core.adapter import AdapterSpec, Start, additions
from fedlora.core.lowrank import LowRank
from fedlora.core.rounds import FitJob
from fedlora.training.bases.maps import addition
from fedlora.training.bases.model import Base, at_least_single
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.client_order import Size, as_it_is, pack_by_client
from fedlora.training.forward.current_pass import Addition, Below, ClientOrder
from fedlora.training.forward.grouped import MASKED_SHARE, Parts, grouped_additions, masked_share, only_pairs
from fedlora.training.forward.heads import can_be_together, logits_together
from fedlora.training.forward.joined import Slots
from fedlora.training.forward.outputs import Outputs, made
from fedlora.training.forward.packing import Pack, PackedEncoder, pack
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.protocol import Forward
from fedlora.training.forward.trial import packed_encoder
from fedlora.training.forward.trunk import Trunk, new_trunk
from fedlora.training.settings import TrainSettings

_SCORED_TOKENS = {"cuda": 16_384}
"""Tokens of a pass that scores, by kind of device."""
_SCORED_TOKENS_ELSEWHERE = 2048


class PaddedInstead(UserWarning):
    """A base whose sequences cannot be packed."""


def fastest_forward(
    base: Base,
    spec: AdapterSpec,
    device: str = "cpu",
    tokens_a_pass: int = TrainSettings.tokens_a_pass,
    *,
    trunk_cache_gb: float = TrainSettings.trunk_cache_gb,
    checkpointing: bool = TrainSettings.gradient_checkpointing,
    announce: Callable[[str], None] | None = None,
) -> Forward:
    """The packed forward where the base's sequences can be packed, else, with a warning, the padded one.

    Args:
        base: the resident model.
        spec: the adapter.
        device: where the base is.
        tokens_a_pass: clients share a pass while their batches hold about so many tokens together.
        trunk_cache_gb: what may be kept of that which lies below the adapted layers, see `new_trunk`; 0: nothing.
        checkpointing: whether layers keep their inputs alone and are computed again in the backward pass.
        announce: is told in a sentence what is about to take a while.
    """
    encoder = packed_encoder(base.model, base.padding, base.task_type)
    if encoder is not None:
        together = can_be_together(encoder, base)
        trunk = new_trunk(
            base,
            spec,
            encoder,
            device=device,
            gigabytes=trunk_cache_gb,
            announce=announce or (lambda _: None),
        )
        return PackedForward(
            base, spec, encoder, device, tokens_a_pass, trunk, checkpointing=checkpointing, heads_together=together
        )
    warnings.warn(
        f"Sequences of {base.name} cannot be packed: clients are trained one by one on padded batches.",
        PaddedInstead,
        stacklevel=2,
    )
    return PaddedForward(base, spec, device)


@dataclass(frozen=True, eq=False)
class PackedForward:
    """Packed sequences of several clients; see `fastest_forward` for the fields."""

    base: Base
    spec: AdapterSpec
    encoder: PackedEncoder
    device: str = "cpu"
    tokens_a_pass: int = TrainSettings.tokens_a_pass
    trunk: Trunk | None = None
    """What the layers below the adapted ones give; None: every pass computes it."""
    masked_share: float = MASKED_SHARE
    """What the slots of all clients of a pass may cost, as a share of the base's products, before the tokens are
    grouped by client."""
    size: Size = as_it_is
    """With how many tokens a pack that is grouped by client is laid out."""
    checkpointing: bool = False
    """Whether layers are computed again in the backward pass."""
    heads_together: bool = False
    """Whether the heads of clients that are grouped can be called at once."""

    def passes(self, jobs: Sequence[FitJob], load: Callable[[FitJob], float], dropout: float) -> Iterator[list[FitJob]]:
        """Jobs in order, cut where a pass is full; what needs a pass of its own has one."""
        waiting: list[FitJob] = []
        tokens = 0.0
        for job in jobs:
            more = load(job)
            alone = dropout > 0.0 or self._is_alone(job) or bool(waiting and self._is_alone(waiting[-1]))
            if waiting and (alone or tokens + more > self.tokens_a_pass):
                yield waiting
                waiting, tokens = [], 0.0
            waiting, tokens = [*waiting, job], tokens + more
        if waiting:
            yield waiting

    def _is_alone(self, job: FitJob) -> bool:
        """Dense changes of weights belong to one client (and dropout draws for one)."""
        merged = job.fit.start.merged.values()
        return self.spec.kind == "dense" or any(not isinstance(value, LowRank) for value in merged)

    def outputs(
        self, tokens: Tokens, starts: Sequence[Start], batches: Sequence[Indices], dropout: float = 0.0
    ) -> Iterator[tuple[int, Outputs]]:
        """The outputs of all models, from one pass over one pack."""
        numbers = [number for number, batch in enumerate(batches) if len(batch)]
        present = [starts[number] for number in numbers]
        parts = [additions(start, self.spec) for start in present] if self.spec.kind != "dense" else []
        chosen = [batches[number] for number in numbers]
        grouped = self._is_grouped(parts)
        if grouped:
            packed = pack_by_client(tokens, chosen, self.device, self.size)
            order = cast("ClientOrder", packed.order)
            added: Mapping[str, Addition] = grouped_additions(parts, self.spec.shapes, self.spec.scale, order)
        else:
            packed = pack(tokens, chosen, self.device)
            added = self._additions(parts, packed.member, dropout)
        replaced = self.base.moved(present[0], self.spec) if self.spec.kind == "dense" else {}
        # With dropout a map that makes queries and keys alike would draw twice: such layers run once, for all tokens.
        encoder = self.encoder.whole if dropout else self.encoder
        below = self._below(tokens, packed)
        hidden = encoder.hidden(packed, replaced, added, below, checkpointing=self.checkpointing)
        values = [{**replaced, **self.base.head_values(start)} for start in present]
        states = [hidden.index_select(0, rows) for rows in encoder.read_by(packed)]
        if grouped and self.heads_together:
            for number, logits in zip(numbers, logits_together(self.encoder, states, values), strict=True):
                yield number, made(at_least_single(logits))
            return
        for number, head, some in zip(numbers, values, states, strict=True):
            if tokens.supervised is None:
                yield number, made(self._logits(head, some))
            else:
                trains = any(part.requires_grad for part in head.values())
                yield number, Outputs(some, partial(self._logits, head), self.base.classes, trains)

    def _logits(self, head: dict[str, Tensor], hidden: Tensor) -> Tensor:
        """Logits of hidden states (n, width) by a model's head."""
        return at_least_single(self.encoder.logits(hidden, head))

    def _below(self, tokens: Tokens, packed: Pack) -> Below | None:
        """What the layers below the adapted ones give for a pack, if that is known."""
        below = self.trunk.below(tokens, packed.examples) if self.trunk is not None else None
        padding = 0 if below is None else packed.ids.shape[1] - below.states.shape[1]
        if below is None or not padding:
            return below
        return replace(below, states=functional.pad(below.states, (0, 0, 0, padding)))

    def _is_grouped(self, clients: Sequence[Parts]) -> bool:
        """Whether tokens lie client by client: where the slots of all clients would cost too much beside each other."""
        shapes = self.spec.shapes
        return len(clients) > 1 and only_pairs(clients) and masked_share(clients, shapes) > self.masked_share

    def _additions(self, clients: Sequence[Parts], member: Tensor, dropout: float) -> Mapping[str, Addition]:
        """By map, what everyone's adapters add; a dense adapter adds nothing, it replaces parameters."""
        scale, others = self.spec.scale, _Others(member)
        if len(clients) == 1:
            return {module: _alone(parts, scale, dropout) for module, parts in clients[0].items()}
        modules = self.spec.shapes if clients else ()
        return {module: _together([of[module] for of in clients], scale, others) for module in modules}

    def pieces(self, tokens: Tokens, examples: Indices) -> Iterator[Indices]:
        """As many examples at a time as have so many tokens together, at least one."""
        most = _SCORED_TOKENS.get(torch.device(self.device).type, _SCORED_TOKENS_ELSEWHERE)
        first, count = 0, 0
        for place, length in enumerate(tokens.lengths[examples].tolist()):
            if place > first and count + length > most:
                yield examples[first:place]
                first, count = place, 0
            count += length
        if first < len(examples):
            yield examples[first:]

    def prepare(self, tokens: Tokens) -> None:
        """Make what the layers below the adapted ones give, once."""
        if self.trunk is not None:
            self.trunk.states(tokens)


def _alone(parts: Sequence[LowRank | Tensor], scale: float, dropout: float) -> Addition:
    """What one client's adapter and merged update add to one map."""
    pairs = [part for part in parts if isinstance(part, LowRank)]
    if dropout or not pairs or len(pairs) < len(parts):
        return addition(parts, scale, dropout)
    return _side_by_side(pairs, scale, None)


class _Others:
    """Which slots are not a token's: one mask for all maps whose slots lie alike.

    Args:
        member: of each token, whose it is.
    """

    def __init__(self, member: Tensor) -> None:
        self._member = member
        self._made: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def of(self, layout: tuple[tuple[int, int], ...]) -> Tensor:
        """The mask (slots, tokens) of slots that lie side by side, given as (whose, how many)."""
        if layout not in self._made:
            slots = torch.tensor([number for number, count in layout for _ in range(count)], dtype=torch.long)
            self._made[layout] = slots.to(self._member.device)[:, None] != self._member[None]
        return self._made[layout]


def _together(parts: Sequence[Sequence[LowRank | Tensor]], scale: float, others: _Others) -> Addition:
    """What several clients' pairs add to one map, each to its own tokens.

    All slots of all clients lie side by side; a token's products with slots of others are set to zero, not
    multiplied by it: what is not finite in one client must not reach another.

    Args:
        parts: of each client, its pairs.
        scale: s.
        others: which slots are not a token's.
    """
    pairs = [(number, part) for number, theirs in enumerate(parts) for part in theirs if isinstance(part, LowRank)]
    foreign = others.of(tuple((number, pair.rank) for number, pair in pairs))
    return _side_by_side([pair for _, pair in pairs], scale, foreign)


def _side_by_side(pairs: Sequence[LowRank], scale: float, foreign: Tensor | None) -> Slots:
    A = pairs[0].A if len(pairs) == 1 else torch.cat([pair.A for pair in pairs])
    B = pairs[0].B if len(pairs) == 1 else torch.cat([pair.B for pair in pairs], dim=1)
    return Slots(A, (scale * B).T.contiguous(), foreign)
