# SPDX-License-Identifier: Apache-2.0
"""The ServerApp: the same loop as everywhere, over Flower's Grid, with a run folder at the server."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlora.app.config.schema import read_config
from fedlora.app.run.progress import line_of, quiet_libraries
from fedlora.deploy.flower.carrier import GridConnection
from fedlora.deploy.log import absences, say
from fedlora.deploy.server import run_server
from fedlora.errors import FedloraError

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run config: `config`, the shared config; `out`, the run folder; `resume`; `set`, overrides of keys."""
    settings = context.run_config
    quiet_libraries()
    try:
        file, folder = Path(str(settings["config"])).absolute(), Path(str(settings["out"])).absolute()
        config = read_config(file, str(settings.get("set", "")).split(), file.parent)
        resume = bool(settings.get("resume", False))
        if config.deploy is not None:
            say(f"waits for {config.deploy.sites} sites, {config.deploy.wait:g} s at most")
        for remote, record in run_server(config, GridConnection(grid), folder, resume, tell=say):
            if record is None:
                told = [f"{client.id} ({client.examples} examples, rank {client.rank})" for client in remote.roster()]
                say(f"{config.method.name} across {len(told)} sites: {', '.join(told)}")
            else:
                say(line_of(record, config.run.rounds) + absences(record))
        say(f"done: {folder}")
    except FedloraError as error:
        say(f"fedlora: {error}")
        # Flower calls a run failed only where its app raises, and shows the traceback: as little of it as there can be.
        raise error.with_traceback(None) from None
