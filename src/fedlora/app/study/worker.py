# SPDX-License-Identifier: Apache-2.0
"""One cell in one process with one thread: `python -m fedlora.app.study.worker` reads jobs as lines of JSON.

A job is answered by a line of JSON. The process ends with the one that started it, however that ends: where its input
is closed it leaves at once, in the middle of a cell, which the next start goes on with.
"""

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import torch

from fedlora.app.build.simulation import Resources, build, load
from fedlora.app.config.schema import Config, make_config, resolved
from fedlora.app.run.dry_run import dry_run, sent
from fedlora.app.run.progress import quiet_libraries
from fedlora.app.run.results import MODEL_FOLDERS
from fedlora.app.run.run import Run, is_finished
from fedlora.errors import DivergedError, FedloraError
from fedlora.federation.files import write_json
from fedlora.federation.journal import CHECKPOINTS, CLIENT_MODELS, CLIENT_STATES
from fedlora.federation.same_run import CONFIG

DIVERGED = "diverged.json"
"""In a cell's folder: its training left the finite numbers, and would again."""
_BULK = (*MODEL_FOLDERS, CHECKPOINTS, CLIENT_STATES, CLIENT_MODELS)
"""What a finished cell no longer needs, by far the most of its bytes."""


def run_cell(config: Config, folder: Path) -> dict[str, Any]:
    """Run a cell to its end, from wherever its folder has come; its models are not kept.

    Returns:
        Nothing, or under `error` why it could not be run; a diverged training also leaves `DIVERGED` in its folder.
    """
    try:
        if not is_finished(folder, config.run.rounds):
            simulation = build(config, _resources(_loaded_by(config)), workers=1)
            for _ in Run(simulation, folder, resume=(folder / CONFIG).is_file()).rounds():
                pass
        for name in _BULK:
            shutil.rmtree(folder / name, ignore_errors=True)
    except DivergedError as error:
        write_json(folder / DIVERGED, {"error": str(error)})
        return {"error": str(error)}
    except FedloraError as error:
        return {"error": str(error)}
    except Exception as error:  # of a library, of a user's method: it stops no other cell
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def cost_of_cell(config: Config) -> dict[str, Any]:
    """What a cell would cost: `seconds`, `bytes_up` and `bytes_down`; or under `error` why it could not be run."""
    try:
        dry = dry_run(build(config, _resources(_loaded_by(config)), workers=1), workers=1)
    except Exception as error:
        return {"error": str(error)}
    up, down = (sum(getattr(cost, way) for cost in dry.rounds) for way in ("bytes_up", "bytes_down"))
    return {"seconds": dry.seconds, "bytes_up": up, "bytes_down": down}


def bytes_of_cell(config: Config) -> dict[str, Any]:
    """What a cell would send, as `cost_of_cell` tells it, without its `seconds`, which take longer to find."""
    try:
        up, down = sent(build(config, _resources(_loaded_by(config)), workers=1))
    except Exception as error:
        return {"error": str(error)}
    return {"bytes_up": up, "bytes_down": down}


def _loaded_by(config: Config) -> str:
    """The part of a config on which data and base depend, as TOML of a whole config."""
    usual = Config()
    run = replace(usual.run, seed=config.run.seed, device=config.run.device)
    # neither the rank nor the scale is the base's: cells that differ by them alone share what is loaded
    of_method = {name: getattr(usual.adapter, name) for name in ("rank", "alpha", "scaling", "scale")}
    return resolved(Config(run, config.data, config.split, config.model, replace(config.adapter, **of_method)))


def forget() -> None:
    """Let go of data and base: whoever comes next may find other files at their paths."""
    _resources.cache_clear()


@lru_cache(maxsize=1)
def _resources(config: str) -> Resources:
    return load(make_config(tomllib.loads(config), Path("/")))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as every cell does wherever it is run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job: `config` as TOML, and `folder` for a cell that is to be run.

    Of a run the `seconds` are told, those in which the process started not counted. Without a folder, what it would
    cost, or where `only` is `bytes`, what it would send.
    """
    config = make_config(tomllib.loads(job["config"]), Path("/"))
    with one_thread():
        if "folder" in job:
            began = time.perf_counter()
            return run_cell(config, Path(job["folder"])) | {"seconds": time.perf_counter() - began}
        return bytes_of_cell(config) if job.get("only") == "bytes" else cost_of_cell(config)


def _read(lines: TextIO, jobs: "queue.SimpleQueue[str]", leave: Callable[[int], Any]) -> None:
    for line in lines:
        jobs.put(line)
    leave(0)


def main() -> None:
    """Answer jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this one
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    quiet_libraries()
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin, jobs, os._exit), daemon=True).start()
    while True:
        print(json.dumps(answer(json.loads(jobs.get()))), file=answers, flush=True)


if __name__ == "__main__":
    main()
