# SPDX-License-Identifier: Apache-2.0
"""The command line. Exit 0: done; 2: the input was wrong, one sentence on stderr; 1: anything else."""

import gc
import sys

from fedlora.cli import data, deployment, methods, models, running, studying  # each gives its commands to the line
from fedlora.cli.command_line import app
from fedlora.errors import FedloraError, UserError

__all__ = ["app", "data", "deployment", "main", "methods", "models", "running", "studying"]

_ROOMS = [module.__name__ for module in (data, running, studying, models, methods, deployment)]
app.registered_commands.sort(key=lambda command: _ROOMS.index(getattr(command.callback, "__module__", "")))


_NEW_OBJECTS = (10_000, 10, 5)
"""New objects, and looks at the young and at the middle-aged, between two looks for cycles: the libraries make a
million objects that stay, and at Python's 700 a command spends half a second of its start on looking through them."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    gc.set_threshold(*_NEW_OBJECTS)
    try:
        app()
    except UserError as error:
        sys.exit(_say(error, 2))
    except FedloraError as error:
        sys.exit(_say(error, 1))


def _say(error: FedloraError, code: int) -> int:
    print(f"fedlora: {error}", file=sys.stderr)
    return code
