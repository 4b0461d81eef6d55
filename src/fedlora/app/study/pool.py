# SPDX-License-Identifier: Apache-2.0
"""Where cells are run: in this process one after another, or in several processes with a thread each."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fedlora
from fedlora.app.study.worker import answer, forget

Job = dict[str, Any]
"""What `fedlora.app.study.worker.answer` takes."""
Answer = dict[str, Any]


def answers(jobs: Sequence[Job], workers: int) -> Iterator[tuple[int, Answer]]:
    """Do jobs, each in one thread; yields the number of each with its answer as it is done, in any order.

    Args:
        jobs: begun in this order.
        workers: how many at a time; 1: in this process. Answers do not depend on it.
    """
    if workers == 1 or len(jobs) <= 1:
        try:
            for number, job in enumerate(jobs):
                yield number, answer(job)
        finally:
            forget()
        return
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)
    done: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()
    hands = [_Hand(jobs, waiting, done) for _ in range(min(workers, len(jobs)))]
    try:
        for _ in jobs:
            yield done.get()
    finally:
        for hand in hands:
            hand.stop()


class _Hand:
    """A process, and the thread that gives it jobs; a process that dies fails its job, and another takes its place."""

    def __init__(
        self,
        jobs: Sequence[Job],
        waiting: "queue.SimpleQueue[int]",
        done: "queue.SimpleQueue[tuple[int, Answer]]",
    ) -> None:
        self._jobs, self._waiting, self._done = jobs, waiting, done
        self._stopped = False
        self._process: subprocess.Popen[str] | None = None
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self) -> None:
        """End the process, in the middle of a job if there is one."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _work(self) -> None:
        while not self._stopped:
            try:
                number = self._waiting.get_nowait()
            except queue.Empty:
                break
            self._done.put((number, self._answer(self._jobs[number])))
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _answer(self, job: Job) -> Answer:
        if self._process is None or self._process.poll() is not None:
            self._process = _start()
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


def _start() -> "subprocess.Popen[str]":
    home = str(Path(fedlora.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "fedlora.app.study.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
