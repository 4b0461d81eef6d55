# SPDX-License-Identifier: Apache-2.0
"""The only seam between server and clients.

The round loop exists once and the client exists once; a simulation and a deployment differ in the
transport between them and in nothing else.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from fedlora.core.payload import Payload, branch
from fedlora.core.rounds import Client, Failure, Order, Reply


class Transport(Protocol):
    """Carries orders to clients and their answers back."""

    def roster(self) -> Sequence[Client]:
        """All clients that are there, in any order."""
        ...

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """Deliver orders and yield the answers in any order of arrival, each with its traffic.

        A client that never answers is yielded as a `Failure` or not at all.
        """
        ...


def split_head(payload: Payload) -> tuple[Payload, Payload]:
    """A message's payload as (the method's part, the head)."""
    return branch(payload, "adapter"), branch(payload, "head")


def join_head(adapter: Payload, head: Payload) -> Payload:
    """The inverse of `split_head`; what is empty is left out."""
    whole = {"adapter": adapter, "head": head}
    return {key: value for key, value in whole.items() if value}
