# SPDX-License-Identifier: Apache-2.0
"""Resource profiles: how ranks or budgets are spread over clients, by name.

The three of LoRA-A2's evaluation (arXiv 2410.22815), for its 30 clients; for another number of clients the
shares are kept (largest remainder). Worked back from the paper's totals, not confirmed.
"""

from collections.abc import Mapping

from fedlora.core.seeds import numpy_stream
from fedlora.federation.settings import Profile

PROFILES: Mapping[Profile, Mapping[int, int]] = {
    "uniform": {2: 6, 4: 6, 8: 6, 16: 6, 32: 6},
    "heavy-tail": {2: 16, 4: 8, 8: 4, 16: 2},
    "normal": {1: 3, 2: 7, 4: 10, 8: 7, 16: 3},
}
"""Rank -> how many of 30 clients have it."""


def profile_ranks(profile: Profile, clients: int, seed: int) -> list[int]:
    """The rank of every client, dealt at random."""
    shares = PROFILES[profile]
    whole = sum(shares.values())
    exact = {rank: clients * count / whole for rank, count in shares.items()}
    counts = {rank: int(share) for rank, share in exact.items()}
    rest = sorted(exact, key=lambda rank: (counts[rank] - exact[rank], rank))
    for rank in rest[: clients - sum(counts.values())]:
        counts[rank] += 1
    ranks = [rank for rank, count in counts.items() for _ in range(count)]
    order: list[int] = numpy_stream(seed, "profile").permutation(clients).tolist()
    return [ranks[place] for place in order]
