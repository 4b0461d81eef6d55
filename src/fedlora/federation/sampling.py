# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a round, and who drops out.

Both are drawn from streams named by the seed and the round (and the client), so they depend on neither
the past nor the order in which clients are listed.
"""

from collections.abc import Sequence

from fedlora.core.rounds import Client
from fedlora.core.seeds import numpy_stream


def participants(roster: Sequence[Client], per_round: int | None, seed: int, round: int) -> list[Client]:
    """The clients of a round, sorted by id: all of them, or `per_round` drawn without replacement."""
    all_clients = sorted(roster, key=lambda client: client.id)
    if per_round is None or per_round >= len(all_clients):
        return all_clients
    chosen = numpy_stream(seed, "participants", round).choice(len(all_clients), per_round, replace=False)
    return [all_clients[index] for index in sorted(chosen.tolist())]


def drops_out(client: str, probability: float, seed: int, round: int) -> bool:
    """Whether a chosen client cannot be reached in this round."""
    return probability > 0 and numpy_stream(seed, "dropout", round, client).random() < probability
