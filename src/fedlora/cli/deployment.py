# SPDX-License-Identifier: Apache-2.0
"""Across real sites: be a site, write out the Flower app."""

from pathlib import Path
from typing import Annotated

import typer

from fedlora.cli.command_line import app, interruptible


@app.command()
def site(
    config: Annotated[Path, typer.Argument(help="The site's own TOML file; see docs/deploy.md.")],
) -> None:
    """Be a site of a deployed federation: hold base, data and private memory, and answer until stopped."""
    from fedlora.app.run.progress import quiet_libraries
    from fedlora.deploy.resident import run_site

    quiet_libraries()
    with interruptible("what the site keeps is on its disk"):
        run_site(config)


@app.command(name="deploy-app")
def deploy_app(
    folder: Annotated[Path, typer.Argument(help="Where the app goes; must be empty or not there.")],
) -> None:
    """Write out the Flower app of a deployed federation, to build and sign, and the proxy's configuration."""
    from fedlora.deploy.app_files import write_app

    written = ", ".join(path.name for path in write_app(folder))
    typer.echo(f"{folder}: {written}. Next: flwr build --app {folder}; see docs/deploy.md.")
