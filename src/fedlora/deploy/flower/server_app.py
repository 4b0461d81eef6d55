# SPDX-License-Identifier: Apache-2.0
"""The ServerApp: the same loop as everywhere, over Flower's Grid, with a run folder at the server."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlora.app.config import read_config
from fedlora.app.progress import line_of, quiet_libraries
from fedlora.deploy.flower.carrier import GridConnection
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
        for remote, record in run_server(config, GridConnection(grid), folder, bool(settings.get("resume", False))):
            if record is None:
                told = [f"{client.id} ({client.examples} examples, rank {client.rank})" for client in remote.roster()]
                print(f"{config.method.name} across {len(told)} sites: {', '.join(told)}", flush=True)
            else:
                print(line_of(record, config.run.rounds), flush=True)
        print(f"done: {folder}", flush=True)
    except FedloraError as error:
        print(f"fedlora: {error}", flush=True)
        raise
