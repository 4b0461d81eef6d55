# SPDX-License-Identifier: Apache-2.0
"""Packs whose tokens lie client by client, so that a grouped product meets each client's factors with its tokens alone.

Where fewer shapes are wanted than there are packs (compiled code, recorded launches), a pack is padded to one of a few
sizes by sequences that nobody reads. They touch no other token: attention stays within a sequence, and all else works
token by token.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.current_pass import ClientOrder, Group
from fedlora.training.forward.packing import Pack, pack

Size = Callable[[int], int]
"""With how many tokens a pack of so many is laid out: as many or more."""
_STEPS = 8
"""Sizes between a number and its double: a pack is at most an eighth larger than it need be."""


def as_it_is(tokens: int) -> int:
    """No padding."""
    return tokens


def one_of_a_few(tokens: int) -> int:
    """The next of the sizes 8, 9, ..., 16, 18, ..., 32, 36, ...: eight between a number and its double."""
    step: int = max(1, 2 ** (tokens.bit_length() - 1) // _STEPS)
    return -(-tokens // step) * step


def pack_by_client(tokens: Tokens, batches: Sequence[Indices], device: str, size: Size = as_it_is) -> Pack:
    """Lay batches of examples end to end, client by client, and within a client by length.

    Args:
        tokens: of all examples.
        batches: a batch of each client, none of them empty.
        device: where to put them.
        size: with how many tokens the pack is laid out.

    Returns:
        A pack with `order`. Its `groups` speak of the order by length; padding belongs to one member more.
    """
    found = _padded(pack(tokens, batches, "cpu"), size)
    member, sequences = found.member, found.member[found.firsts]
    from_length = torch.argsort(member, stable=True)
    to_length = _inverse(from_length)
    by_client = torch.argsort(sequences, stable=True)
    new_number = _inverse(by_client)
    firsts = to_length[found.firsts[by_client]]
    arrays = [
        found.ids[0, from_length],
        found.positions[0, from_length],
        firsts,
        to_length[found.lasts[by_client]],
        member[from_length],
        to_length,
        from_length,
        torch.cat([firsts, torch.tensor([len(member)])]),
        torch.bincount(member).cumsum(0),
        torch.bincount(sequences).cumsum(0),
        new_number,
        by_client,
        *(new_number[rows] for rows in found.rows),
        *(to_length[places] for places in found.predicting),
    ]
    put = iter(_put(arrays, device))
    ids, positions, firsts, lasts, member, to_length, from_length, starts = islice(put, 8)
    token_ends, sequence_ends, sequences_to_length, sequences_from_length, *rest = put
    rows, predicting = rest[: len(found.rows)], rest[len(found.rows) :]
    order = ClientOrder(
        token_ends=token_ends.int(),
        sequence_ends=sequence_ends.int(),
        sequence_starts=starts.int(),
        longest=max(length for _, _, length in found.groups),
        to_length=to_length,
        from_length=from_length,
        sequences_to_length=sequences_to_length,
        sequences_from_length=sequences_from_length,
    )
    return Pack(
        ids=ids[None],
        examples=found.examples[by_client[: len(found.examples)].numpy()],  # padding comes behind all members
        positions=positions[None],
        groups=found.groups,
        firsts=firsts,
        lasts=lasts,
        member=member,
        rows=tuple(rows),
        predicting=tuple(predicting),
        order=order,
    )


def _padded(found: Pack, size: Size) -> Pack:
    """A pack with sequences of nobody's at its end, none longer than its longest."""
    tokens = found.ids.shape[1]
    more = size(tokens) - tokens
    if not more:
        return found
    longest = max(length for _, _, length in found.groups)
    whole, rest = divmod(more, longest)
    lengths = [longest] * whole + [rest] * bool(rest)
    groups: list[Group] = [(tokens, whole, longest)] * bool(whole) + [(tokens + whole * longest, 1, rest)] * bool(rest)
    firsts = tokens + torch.tensor([0, *lengths]).cumsum(0)[:-1]
    return replace(
        found,
        ids=functional.pad(found.ids, (0, more)),
        positions=torch.cat([found.positions, torch.cat([torch.arange(n) for n in lengths])[None]], dim=1),
        groups=(*found.groups, *groups),
        firsts=torch.cat([found.firsts, firsts]),
        lasts=torch.cat([found.lasts, firsts + torch.tensor(lengths) - 1]),
        member=functional.pad(found.member, (0, more), value=len(found.rows)),
    )


def _inverse(order: Tensor) -> Tensor:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return inverse


def _put(arrays: Sequence[Tensor], device: str) -> Sequence[Tensor]:
    """All of them on the device, by one copy, which a GPU does not have to wait for."""
    together = torch.cat(list(arrays))
    if torch.device(device).type == "cuda":
        together = together.pin_memory()
    return torch.split(together.to(device, non_blocking=True), [len(array) for array in arrays])
