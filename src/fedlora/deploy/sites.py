# SPDX-License-Identifier: Apache-2.0
"""Who takes part in a deployed run. A name belongs to one node for the whole run, and a node has one name.

What a site says of itself at its first hello counts until the run ends: a site cannot become several, take another's
name, or change its weight on the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlora.core.rounds import Client
from fedlora.errors import PayloadError


@dataclass(frozen=True, slots=True)
class Member:
    """A site, as its first hello introduced it."""

    node: str
    """The node of the carrier that forwards to it."""
    client: Client


class Members:
    """The sites of one run.

    Args:
        known: by name, those who took part in an earlier part of the same run.
        most_examples: no site may count for more training examples than this; None: no limit.
    """

    def __init__(self, known: Mapping[str, Member] | None = None, most_examples: int | None = None) -> None:
        self._known = dict(known or {})
        self._present: set[str] = set()
        self._most_examples = most_examples

    def join(self, node: str, client: Client) -> None:
        """Take in a site that said hello.

        Raises:
            PayloadError: with one sentence about why it cannot take part.
        """
        first = self._known.get(client.id)
        if first is not None and first.node != node:
            raise PayloadError(
                f"the name {client.id!r} belongs to node {first.node} in this run, and this is node {node}: give each "
                f"site a name of its own. Was the node's key replaced? Remove the site from deployment.json and resume."
            )
        taken = next((name for name, member in self._known.items() if member.node == node), client.id)
        if taken != client.id:
            raise PayloadError(
                f"its node is {taken!r} in this run, and now says {client.id!r}: a node has one name a run."
            )
        if self._most_examples is not None and client.examples > self._most_examples:
            raise PayloadError(
                f"it says that it has {client.examples} training examples, more than deploy.most_examples "
                f"({self._most_examples})."
            )
        if first is not None and first.client != client:
            was = first.client
            raise PayloadError(
                f"it said {was.examples} examples, weight {was.weight:g} and rank {was.rank} at first, and says "
                f"{client.examples} examples, weight {client.weight:g} and rank {client.rank} now: what counts is "
                f"fixed for a run. Put its data and rank back, or start a "
                f"new run."
            )
        self._known[client.id] = Member(node, client)
        self._present.add(client.id)

    def roster(self) -> Sequence[Client]:
        """Every site that has said hello to this server process, by name."""
        return [self._known[name].client for name in sorted(self._present)]

    def node(self, name: str) -> str:
        """The node that forwards to a site."""
        return self._known[name].node

    def name(self, node: str) -> str:
        """The site behind a node; the node itself where no site said hello from it."""
        return next((name for name, member in self._known.items() if member.node == node), node)

    def is_present(self, node: str) -> bool:
        """Whether the site behind a node has said hello to this server process."""
        return self.name(node) in self._present

    def to_json(self) -> dict[str, dict[str, object]]:
        """By name, what a later part of the run must know."""
        return {
            name: {
                "node": member.node,
                "examples": member.client.examples,
                "rank": member.client.rank,
                **({} if member.client.counted_as is None else {"weight": member.client.counted_as}),
            }
            for name, member in sorted(self._known.items())
        }


def read_members(sites: Mapping[str, Mapping[str, object]]) -> dict[str, Member]:
    """The inverse of `Members.to_json`."""
    return {
        name: Member(
            str(fields["node"]),
            Client(
                name,
                int(str(fields["examples"])),
                int(str(fields["rank"])),
                counted_as=float(str(fields["weight"])) if "weight" in fields else None,
            ),
        )
        for name, fields in sites.items()
    }
