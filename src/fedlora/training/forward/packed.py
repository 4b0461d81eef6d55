# SPDX-License-Identifier: Apache-2.0
"""The fast one: packed sequences, and the adapters of several clients on one frozen base in one pass.

What it gives is what the padded forward gives, client by client, but for rounding. Clients' sequences lie in one
pack, and every adapted map adds to each token what its own client's factors make of it.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.core.adapter import AdapterSpec, Start, additions
from fedlora.core.lowrank import LowRank
from fedlora.core.rounds import FitJob
from fedlora.training.current_pass import Addition, current
from fedlora.training.forward import Forward
from fedlora.training.forward.packing import PackedEncoder, pack
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.forward.trial import packed_encoder
from fedlora.training.forward.trunk import Trunk, new_trunk
from fedlora.training.maps import addition
from fedlora.training.model import Base, at_least_single
from fedlora.training.settings import TrainSettings
from fedlora.training.split import Indices
from fedlora.training.tokens import Tokens

_SCORED_TOKENS = 2048
"""Tokens of a pass that scores."""


class PaddedInstead(UserWarning):
    """A base whose sequences cannot be packed."""


def fastest_forward(
    base: Base,
    spec: AdapterSpec,
    device: str = "cpu",
    tokens_a_pass: int = TrainSettings.tokens_a_pass,
    *,
    trunk_cache_gb: float = TrainSettings.trunk_cache_gb,
    announce: Callable[[str], None] | None = None,
) -> Forward:
    """The packed forward where the base's sequences can be packed, else, with a warning, the padded one.

    Args:
        base: the resident model.
        spec: the adapter.
        device: where the base is.
        tokens_a_pass: clients share a pass while their batches hold about so many tokens together.
        trunk_cache_gb: what may be kept of that which lies below the adapted layers, see `new_trunk`; 0: nothing.
        announce: is told in a sentence what is about to take a while.
    """
    encoder = packed_encoder(base.model, base.padding)
    if encoder is not None:
        trunk = new_trunk(
            base,
            spec,
            encoder,
            device=device,
            gigabytes=trunk_cache_gb,
            announce=announce or (lambda _: None),
        )
        return PackedForward(base, spec, encoder, device, tokens_a_pass, trunk)
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

    def logits(
        self, tokens: Tokens, starts: Sequence[Start], batches: Sequence[Indices], dropout: float = 0.0
    ) -> Iterator[tuple[int, Tensor]]:
        """The logits of all models, from one pass over one pack."""
        numbers = [number for number, batch in enumerate(batches) if len(batch)]
        present = [starts[number] for number in numbers]
        packed = pack(tokens, [batches[number] for number in numbers], self.device)
        replaced = self.base.moved(present[0], self.spec) if self.spec.kind == "dense" else {}
        # with dropout a map that makes queries and keys alike would draw twice: such layers run once, for all tokens
        encoder = self.encoder.whole if dropout else self.encoder
        below = self.trunk.below(tokens, packed.examples) if self.trunk is not None else None
        hidden = encoder.hidden(packed, replaced, self._additions(present, packed.member, dropout), below)
        for number, start, rows in zip(numbers, present, packed.rows, strict=True):
            values = {**replaced, **self.base.head_values(start)}
            yield number, at_least_single(self.encoder.logits(hidden[rows], values))

    def _additions(self, starts: Sequence[Start], member: Tensor, dropout: float) -> Mapping[str, Addition]:
        """By map, what everyone's adapters add; a dense adapter adds nothing, it replaces parameters."""
        if self.spec.kind == "dense":
            return {}
        parts, scale = [additions(start, self.spec) for start in starts], self.spec.scale
        if len(parts) == 1:
            return {module: addition(pairs, scale, dropout) for module, pairs in parts[0].items()}
        return {module: _together([of[module] for of in parts], scale, member) for module in self.spec.shapes}

    def pieces(self, tokens: Tokens, examples: Indices) -> Iterator[Indices]:
        """As many examples at a time as have so many tokens together, at least one."""
        first, count = 0, 0
        for place, length in enumerate(tokens.lengths[examples].tolist()):
            if place > first and count + length > _SCORED_TOKENS:
                yield examples[first:place]
                first, count = place, 0
            count += length
        if first < len(examples):
            yield examples[first:]

    def prepare(self, tokens: Tokens) -> None:
        """Make what the layers below the adapted ones give, once."""
        if self.trunk is not None:
            self.trunk.states(tokens)


def _together(parts: Sequence[Sequence[LowRank | Tensor]], scale: float, member: Tensor) -> Addition:
    """What several clients' pairs add to one map, each to its own tokens.

    All slots of all clients lie side by side; a token's products with slots of others are set to zero, not
    multiplied by it: what is not finite in one client must not reach another.

    Args:
        parts: of each client, its pairs.
        scale: s.
        member: of each token, whose it is.
    """
    pairs = [(number, part) for number, theirs in enumerate(parts) for part in theirs if isinstance(part, LowRank)]
    A = torch.cat([pair.A for _, pair in pairs])
    B = torch.cat([pair.B for _, pair in pairs], dim=1)
    slots = torch.cat([torch.full((pair.rank,), number) for number, pair in pairs]).to(member.device)
    others = member[:, None] != slots[None]

    def added(x: Tensor) -> Tensor:
        rows = current().rows
        not_theirs = others if rows is None else others[rows]
        return scale * ((x.to(A.dtype) @ A.T).masked_fill(not_theirs, 0.0) @ B.T)

    return added
