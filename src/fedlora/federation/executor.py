# SPDX-License-Identifier: Apache-2.0
"""Where batches of clients are served: in the calling thread, in threads, elsewhere.

A job is a value (orders and client states), and so is what comes of it; what a job needs besides, base and data,
belongs to the worker. So an executor may hold workers in other processes, each with a trainer there: it has to give
back the results in the order of the jobs, and nothing else. They are the same, bit for bit, for every executor.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from typing import Protocol

import torch

from fedlora.core.rounds import ClientState, Failure, Order, Reply

_AHEAD = 4
"""Jobs under way or waiting to be taken, for each thread: so many results are held at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A batch of clients, at most one order for each."""

    orders: Sequence[Order]
    client_states: Mapping[str, ClientState] = field(default_factory=dict)
    """Of those clients that hold one."""


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """What came of one order of a job."""

    answer: Reply | Failure
    client_state: ClientState | None = None
    """What the client keeps of it; None: what it had."""


Worker = Callable[[Job], Sequence[Done]]
"""Serves a job; its results are in the order of the job's orders."""


class Executor(Protocol):
    """Serves jobs."""

    def run(self, jobs: Iterable[Job]) -> Iterator[Sequence[Done]]:
        """The results in the order of the jobs. Jobs are taken when there is room for them, not all at once."""
        ...


@dataclass(frozen=True, slots=True)
class Inline:
    """One job after the other in the calling thread, with its number of threads for operators."""

    worker: Worker

    def run(self, jobs: Iterable[Job]) -> Iterator[Sequence[Done]]:
        """The results in the order of the jobs."""
        return map(self.worker, jobs)


@dataclass(frozen=True, slots=True)
class Threads:
    """As many jobs at a time as there are threads, each with single-threaded operators: results do not depend on how
    many there are."""

    worker: Worker
    count: int

    def run(self, jobs: Iterable[Job]) -> Iterator[Sequence[Done]]:
        """The results in the order of the jobs."""
        with ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                yield from _in_order((pool.submit(self.worker, job) for job in jobs), self.count)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class ThreadEach:
    """Workers that differ in where they compute, with a thread each, which has single-threaded operators.

    The workers take turns: which of them serves a job depends on the job's place alone, and not on who is ready first.
    """

    workers: Sequence[Worker]

    def run(self, jobs: Iterable[Job]) -> Iterator[Sequence[Done]]:
        """The results in the order of the jobs."""
        pools = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) for _ in self.workers]
        turns = cycle(zip(pools, self.workers, strict=True))
        try:
            yield from _in_order(
                (pool.submit(worker, job) for job, (pool, worker) in zip(jobs, turns, strict=False)), len(pools)
            )
        finally:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)


def _in_order(futures: Iterable[Future[Sequence[Done]]], threads: int) -> Iterator[Sequence[Done]]:
    """The results in their order; a few more than there are threads are begun before one is taken."""
    ahead: deque[Future[Sequence[Done]]] = deque()
    for future in futures:
        ahead.append(future)
        if len(ahead) >= _AHEAD * threads:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
