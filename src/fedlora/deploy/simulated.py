# SPDX-License-Identifier: Apache-2.0
"""Sites of a simulation that another engine carries: each is a client of the config's own [split]."""

import os
from functools import cache
from pathlib import Path

from fedlora.app.build import Simulation, build
from fedlora.app.config import read_config
from fedlora.app.progress import quiet_libraries
from fedlora.deploy.site import Site
from fedlora.errors import ConfigError


def simulated_site(config: Path, overrides: tuple[str, ...], out: Path, number: int) -> Site:
    """The site of one client.

    Args:
        config: of the simulation.
        overrides: of its keys.
        out: the run folder; what clients keep goes beside it.
        number: which client, in the order of their names.

    Raises:
        ConfigError: there is no such client.
    """
    simulation = _simulation(config, overrides)
    clients = sorted(simulation.transport.roster(), key=lambda client: client.id)
    if number >= len(clients):
        raise ConfigError(f"There are {len(clients)} clients in the split and more nodes: start as many nodes.")
    client = clients[number]
    return Site(simulation, client, out.with_name(f"{out.name}-clients") / client.id)


@cache
def _simulation(config: Path, overrides: tuple[str, ...]) -> Simulation:
    quiet_libraries()
    os.chdir(config.parent)  # as at the server
    return build(read_config(config, overrides), workers=1)
