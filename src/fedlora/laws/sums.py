# SPDX-License-Identifier: Apache-2.0
"""The law of what a server needs to know: sums over the clients, or each client's update by itself."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Generator, Tensor

from fedlora.core.kinds import Side
from fedlora.core.slots import Sparse
from fedlora.core.update import Update
from fedlora.federation.pipeline import Pipeline
from fedlora.laws.evidence import aggregations, observed, same
from fedlora.laws.world import World


def sums(pipeline: Pipeline, world: World) -> None:
    """Updates with the same sums give the same result: the fact `consumes`.

    The updates of two clients are moved against each other, so that just the sums that the method declares stay what
    they are. A method that looks at a single client's update gives itself away.
    """
    consumes = pipeline.facts.consumes
    for round, before, updates in aggregations(observed(pipeline, replace(world, wire="float32"))):
        generator = Generator().manual_seed(world.seed + round)
        for first, second in combinations(range(len(updates)), 2):
            start = list(updates)
            sides: tuple[Side, ...] = ("input", "output")
            if consumes != "slot sums":
                if not _same_shapes(updates[first], updates[second]):
                    continue
                # Behind one A, the sum of w_k B_k A is that of w_k B_k.
                start[second] = _with_input(updates[second], updates[first])
                sides = ("output",)
            moved = _apart(start, first, second, sides, generator)
            if consumes == "product sums":
                moved = [_turned(update, generator) for update in moved]
            expected = pipeline.method.aggregate(before, iter(start), round)
            found = pipeline.method.aggregate(before, iter(moved), round)
            told = f"round {round}: {updates[first].client.id} and {updates[second].client.id} send others of the same"
            same(pipeline, world.spec, found, expected, f"{told} {consumes}, and another result comes out")


def _same_shapes(first: Update, second: Update) -> bool:
    """Whether two updates hold both sides as tensors of the same shapes."""
    shapes = [
        {
            (side, module): sent.shape
            for side, modules in update.sides.items()
            for module, sent in modules.items()
            if isinstance(sent, Tensor)
        }
        for update in (first, second)
    ]
    return shapes[0] == shapes[1] and first.sides.keys() == {"input", "output"}


def _with_input(update: Update, other: Update) -> Update:
    """The update, with the other's A."""
    return replace(update, sides={**update.sides, "input": other.sides["input"]})


def _apart(
    updates: Sequence[Update], first: int, second: int, sides: Sequence[Side], generator: Generator
) -> list[Update]:
    """The updates, of which two are moved by d / w_1 and by -d / w_2: what both sent, and their heads."""
    moved = list(updates)
    one, other = moved[first], moved[second]
    shared = [
        (side, module)
        for side in sides
        for module, sent in one.sides.get(side, {}).items()
        if _meet(sent, other.sides.get(side, {}).get(module))
    ]
    changes = {
        place: torch.randn(_values(one.sides[place[0]][place[1]]).shape, generator=generator) for place in shared
    }
    heads = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in one.head.items()}
    for number, sign in ((first, 1.0), (second, -1.0)):
        update = moved[number]
        step = sign / update.weight
        entries = {side: dict(modules) for side, modules in update.sides.items()}
        for (side, module), change in changes.items():
            entries[side][module] = _plus(entries[side][module], step * change)
        head = {name: tensor + step * heads[name] for name, tensor in update.head.items()}
        moved[number] = replace(update, sides=entries, head=head)
    return moved


def _turned(update: Update, generator: Generator) -> Update:
    """Other factors of the same products: A -> G A and B -> B G^T, for a rotation G of each module."""
    inputs, outputs = dict(update.sides["input"]), dict(update.sides["output"])
    for module, sent in inputs.items():
        A, B = _values(sent), _values(outputs[module])
        rotation = torch.linalg.qr(torch.randn(A.shape[0], A.shape[0], generator=generator))[0]
        inputs[module], outputs[module] = rotation @ A, B @ rotation.T
    return replace(update, sides={"input": inputs, "output": outputs})


def _meet(sent: Tensor | Sparse, other: Tensor | Sparse | None) -> bool:
    """Whether two clients sent the very same slots."""
    if isinstance(sent, Sparse) and isinstance(other, Sparse):
        return sent.slots.equal(other.slots)
    return isinstance(sent, Tensor) and isinstance(other, Tensor) and sent.shape == other.shape


def _values(sent: Tensor | Sparse) -> Tensor:
    return sent.values if isinstance(sent, Sparse) else sent


def _plus(sent: Tensor | Sparse, change: Tensor) -> Tensor | Sparse:
    return Sparse(sent.slots, sent.values + change) if isinstance(sent, Sparse) else sent + change
