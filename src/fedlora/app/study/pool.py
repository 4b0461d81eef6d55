# SPDX-License-Identifier: Apache-2.0
"""Where cells are run: in this process one after another, or in several processes with a thread each."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedlora.app.study.worker import answer, forget

Job = dict[str, Any]
"""What `fedlora.app.study.worker.answer` takes."""
Answer = dict[str, Any]
Answers = queue.SimpleQueue[tuple[int, Answer] | None]
"""Of all processes; None: one of them has no more to do."""


class Pool:
    """Does jobs until it is left, which ends its processes, in the middle of a job if there is one.

    Args:
        workers: how many jobs at a time, each with one thread; 1: in this process. Answers do not depend on it.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._processes = [_Process() for _ in range(workers)] if workers > 1 else []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stop()
        forget()

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Answer]]:
        """Do jobs, begun in this order; yields the number of each with its answer as it is done, in any order.

        Args:
            jobs: each is asked for when somebody is free to begin it, so that an iterator may end early.
        """
        waiting = _Waiting(jobs)
        if not self._processes:
            for number, job in waiting:
                yield number, answer(job)
            return
        done: Answers = queue.SimpleQueue()
        for process in self._processes:
            threading.Thread(target=process.work, args=(waiting, done), daemon=True).start()
        busy = len(self._processes)
        while busy:
            told = done.get()
            if told is None:
                busy -= 1
            else:
                yield told


class _Waiting:
    """Numbered jobs, which several threads may take."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = enumerate(jobs)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[tuple[int, Job]]:
        return self

    def __next__(self) -> tuple[int, Job]:
        with self._lock:
            return next(self._jobs)


class _Process:
    """A process that does one job at a time; where it dies, that job fails, and the next one gets a new process."""

    def __init__(self) -> None:
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None

    def work(self, waiting: Iterable[tuple[int, Job]], done: Answers) -> None:
        """Do jobs until none is waiting."""
        try:
            for number, job in waiting:
                if self._stopped:
                    return
                done.put((number, self._answer(job)))
        finally:
            done.put(None)

    def stop(self) -> None:
        """End it."""
        self._stopped = True
        if self._process is not None:
            _end(self._process)

    def _answer(self, job: Job) -> Answer:
        if self._process is not None and self._process.poll() is not None:
            _end(self._process)
            self._process = None
        self._process = self._process or start()
        process, line = self._process, ""
        with suppress(OSError):  # it has ended; its code is told below
            if process.stdin is not None and process.stdout is not None:
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
        if line:
            found: Answer = json.loads(line)
            return found
        return {"error": f"its process ended with code {process.wait()}; a code of -9 may mean that memory ran out."}


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process, if it has not ended by itself, and close what led to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not written yet goes nowhere
            if pipe is not None:
                pipe.close()


def start() -> "subprocess.Popen[str]":
    """A process that answers jobs, and ends with this one."""
    home = str(Path(__file__).parents[3])  # where the package lies
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "fedlora.app.study.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
