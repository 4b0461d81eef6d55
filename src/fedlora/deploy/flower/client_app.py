# SPDX-License-Identifier: Apache-2.0
"""The ClientApp: forwards bytes to the site's resident process. Flower starts a new process for every message.

In Flower's own simulation there is no resident process: there a partition is a client of the config's [split], and
the actor that got its message holds base and data of all.
"""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedlora.deploy.flower.carrier import from_record, no_record, to_record
from fedlora.deploy.sockets import PeerError, ask, read_key
from fedlora.errors import ConfigError

if TYPE_CHECKING:
    from fedlora.deploy.site import Site

app = ClientApp()


@app.query()  # type: ignore[untyped-decorator]
def forward(message: Message, context: Context) -> Message:
    """One message to the site and its answer back. No error leaves here but as a plain reason."""
    data, reason = from_record(message.content)
    if data is None:
        return Message(no_record(reason), reply_to=message)
    try:
        answer = (
            _simulated(data, context) if "partition-id" in context.node_config else _resident(data, message, context)
        )
    except PeerError as error:
        return Message(no_record(str(error)), reply_to=message)
    except Exception as error:  # its text may name files: it stays here
        print(f"fedlora: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Message(no_record(f"the app broke down: {type(error).__name__}"), reply_to=message)
    return Message(to_record(answer), reply_to=message)


def _resident(data: bytes, message: Message, context: Context) -> bytes:
    """Node config: `site`, the address that SITE.toml names, and `key`, the file with its key."""
    node = context.node_config
    if "site" not in node or "key" not in node:
        raise PeerError("the SuperNode has no site and key in --node-config")
    try:
        key = read_key(Path(str(node["key"])))
    except ConfigError as error:
        print(f"fedlora: {error}", file=sys.stderr, flush=True)
        raise PeerError("the node cannot read the key of the site's socket") from error
    return ask(str(node["site"]), key, data, message.metadata.ttl)


def _simulated(data: bytes, context: Context) -> bytes:
    settings = context.run_config
    overrides = tuple(str(settings.get("set", "")).split())
    return _site(
        str(settings["config"]), overrides, str(settings["out"]), int(context.node_config["partition-id"])
    ).answer(data)


@cache
def _site(config: str, overrides: tuple[str, ...], out: str, number: int) -> "Site":
    from fedlora.deploy.site import simulated_site

    return simulated_site(Path(config), overrides, Path(out), number)
