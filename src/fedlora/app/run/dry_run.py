# SPDX-License-Identifier: Apache-2.0
"""What a run would cost, without training it: parameters, steps, bytes of every round, memory and time.

The whole run goes through its methods, stages, validation and encoding, with a trainer that changes tensors at random
in place of training. So bytes and steps are counted where a run counts them, and no formula is written twice.
Memory and time are estimates, from a few real steps of some clients.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from fedlora.app.build.clients import batches_at_a_time, clients_of_a_batch, local_transport
from fedlora.app.build.simulation import Simulation
from fedlora.app.build.untrained import FewSteps, Untrained
from fedlora.app.run.duration import in_words
from fedlora.core.adapter import Start, fresh_adapter
from fedlora.core.rounds import Client, Failure, Order, Reply, ScoreJob, Trainer
from fedlora.federation.client_states import HeldClientStates
from fedlora.federation.server import begin, federate
from fedlora.federation.settings import EvaluateSettings
from fedlora.federation.transport import Transport
from fedlora.report.tables import counted, size

_FEW = 3
"""Steps that are timed, after one that is not."""


@dataclass(frozen=True, slots=True)
class RoundCost:
    """What one round takes, of all clients that take part."""

    clients: int
    bytes_up: int
    bytes_down: int
    most_up: int
    """The bytes from which on uploads would be refused."""
    parameters_up: int
    steps: int
    """Optimiser steps."""
    scored: int
    """Examples that pass through a model to be scored."""
    trained: tuple[int, int]
    """The fewest and the most numbers that one client trains."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What was measured of a few real steps; all of it depends on the machine and on what else it does."""

    step: float
    """Seconds of an optimiser step, with as many clients at a time as in the run."""
    example: float
    """Seconds to score an example."""
    once: float
    """Seconds of what is done once, such as what lies below the adapted layers."""
    memory: int | None
    """The most bytes that this process held so far; None where the system does not tell."""
    gpu_memory: int | None = None
    """Likewise on the GPU; None without one."""


@dataclass(frozen=True, slots=True, eq=False)
class DryRun:
    """What a run would cost."""

    simulation: Simulation
    rounds: tuple[RoundCost, ...]
    certain_up: bool
    """Whether the bytes that go up are the same whatever the training makes of the tensors."""
    certain_down: bool
    """Likewise of the bytes that go down."""
    speed: Speed
    seconds: float
    """About how long the run would take."""

    @property
    def parameters(self) -> int:
        """Numbers of the base model, its head included."""
        return sum(parameter.numel() for parameter in self.simulation.base.model.parameters())


def dry_run(simulation: Simulation, workers: int | None = None) -> DryRun:
    """What a run would cost. Nothing is written.

    Args:
        simulation: everything of the run.
        workers: as for the run.

    Raises:
        UserError: what would be in the way of the run, too.
    """
    began = time.perf_counter()
    rounds = tuple(_rounds(simulation, 0, workers))
    untrained_seconds = time.perf_counter() - began
    others = tuple(_rounds(simulation, 1, workers))
    speed = _speed(simulation, workers)
    work = sum(cost.steps * speed.step + cost.scored * speed.example for cost in rounds)
    return DryRun(
        simulation=simulation,
        rounds=rounds,
        certain_up=[cost.bytes_up for cost in rounds] == [cost.bytes_up for cost in others],
        certain_down=[cost.bytes_down for cost in rounds] == [cost.bytes_down for cost in others],
        speed=speed,
        seconds=untrained_seconds + speed.once + work,
    )


def sent(simulation: Simulation, workers: int | None = None) -> tuple[int, int]:
    """The bytes that a run would send up and down, without measuring how long it takes.

    Args:
        simulation: everything of the run.
        workers: as for the run.
    """
    rounds = list(_rounds(simulation, 0, workers))
    return sum(cost.bytes_up for cost in rounds), sum(cost.bytes_down for cost in rounds)


class _Limits:
    """A transport that notes, of every exchange that trains, how much its uploads may weigh."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.most_up = 0

    def roster(self) -> Sequence[Client]:
        """The inner roster."""
        return self._inner.roster()

    def exchange(self, orders: Sequence[Order]) -> Iterator[Reply | Failure]:
        """The inner exchange."""
        if any(order.kind == "train" for order in orders):
            self.most_up = sum(order.schema.most_bytes() for order in orders if order.schema is not None)
        return self._inner.exchange(orders)


def _rounds(simulation: Simulation, seed: int, workers: int | None) -> Iterator[RoundCost]:
    """What every round takes, where a seed decides what the tensors become."""
    untrained = Untrained(simulation.trainer, seed)
    transport = _Limits(_connect(simulation, untrained, workers))
    federation = replace(simulation.federation, transport=transport, scorer=untrained)
    for _, record in federate(federation, begin(federation, simulation.head)):
        taking_part = [client for client in record.clients if client.outcome == "accepted"]
        trained = [untrained.moved.get((client.client, record.round), 0) for client in taking_part]
        yield RoundCost(
            clients=len(taking_part),
            bytes_up=record.traffic.up,
            bytes_down=record.traffic.down,
            most_up=transport.most_up,
            parameters_up=record.parameters_up,
            steps=record.steps,
            scored=sum(untrained.passed),
            trained=(min(trained, default=0), max(trained, default=0)),
        )
        untrained.passed.clear()


def _connect(simulation: Simulation, trainer: Trainer, workers: int | None) -> Transport:
    """The clients of a run, trained by another trainer."""
    federation = simulation.federation
    clients = federation.transport.roster()
    states = HeldClientStates()
    return local_transport(
        simulation.config, clients, federation.pipeline, [trainer], workers=workers, client_states=states
    )


def _speed(simulation: Simulation, workers: int | None) -> Speed:
    """Time a few steps of as many clients as are trained at a time, and a score; each once before it counts."""
    cold, _ = _time_steps(simulation, 1, workers)
    first, first_steps = _time_steps(simulation, 1, workers)
    more, more_steps = _time_steps(simulation, 1 + _FEW, workers)
    step = max(more - first, 0.0) / max(more_steps - first_steps, 1)
    cold_score, _ = _time_score(simulation)
    score, size = _time_score(simulation)
    once = max(cold - first, 0.0) + max(cold_score - score, 0.0)
    return Speed(step, score / max(size, 1), once, _peak_memory(), _peak_gpu_memory(simulation))


def _time_steps(simulation: Simulation, steps: int, workers: int | None) -> tuple[float, int]:
    """Seconds of a round of a few steps of some clients, and how many steps these were over all of them."""
    config, plan = simulation.config, simulation.federation.plan
    trainer = FewSteps(simulation.trainer, steps, Untrained(simulation.trainer, 0))
    some = replace(plan.clients, per_round=batches_at_a_time(config, workers) * clients_of_a_batch(config), dropout=0.0)
    few = replace(plan, rounds=1, clients=some, evaluate=EvaluateSettings(every=0))
    transport = _connect(simulation, trainer, workers)
    federation = replace(simulation.federation, transport=transport, scorer=trainer, plan=few)
    ((_, record),) = federate(federation, begin(federation, simulation.head))
    return record.seconds["train"], record.steps


def _time_score(simulation: Simulation) -> tuple[float, int]:
    """Seconds to score the smallest test part that there is, and how many examples it has."""
    jobs = [ScoreJob(client, _start(simulation)) for client in simulation.split.clients]
    sizes = [(sum(simulation.trainer.parts_of(job).values()), job) for job in jobs]
    size, job = min(((size, job) for size, job in sizes if size), key=lambda pair: pair[0], default=(0, None))
    if job is None:
        return 0.0, 0
    began = time.perf_counter()
    simulation.trainer.score([job])
    return time.perf_counter() - began, size


def _start(simulation: Simulation) -> Start:
    return Start(fresh_adapter(simulation.spec, simulation.spec.rank, simulation.config.run.seed))


def _peak_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_gpu_memory(simulation: Simulation) -> int | None:
    device = torch.device(simulation.config.run.devices[0])
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def told(dry: DryRun) -> list[str]:
    """What a run would cost, in lines; bytes to the last one."""
    rounds, speed, simulation = dry.rounds, dry.speed, dry.simulation
    least, most = min(cost.trained[0] for cost in rounds), max(cost.trained[1] for cost in rounds)
    up, down, limit = ([getattr(cost, way) for cost in rounds] for way in ("bytes_up", "bytes_down", "most_up"))
    limits = "" if dry.certain_up else f"; at most {sum(limit):,} in the whole run"
    lines = [
        f"clients      {_range([cost.clients for cost in rounds])} a round, {counted(len(rounds), 'round')}",
        f"parameters   {dry.parameters:,} of the base; a client trains {_range([least, most])} in a round "
        f"({100 * most / dry.parameters:.2g} %)",
        f"steps        {sum(cost.steps for cost in rounds):,} optimiser steps of all clients together",
        f"bytes up     {_bytes(up, certain=dry.certain_up)}{limits}",
        f"bytes down   {_bytes(down, certain=dry.certain_down)}",
    ]
    if speed.memory is not None:
        lines.append(f"memory       about {size(speed.memory)}: the most that these few steps took")
    if speed.gpu_memory is not None:
        lines.append(f"GPU memory   about {size(speed.gpu_memory)}, likewise")
    lines.append(f"time         about {in_words(dry.seconds)}: an estimate from a few steps on this machine")
    if not (dry.certain_up and dry.certain_down):
        name = simulation.federation.method.name
        lines.append(f"about: how many bytes {name} sends depends in part on what the training finds")
    return lines


def _bytes(each: Sequence[int], *, certain: bool) -> str:
    """The bytes of the first round, of later ones, and of all."""
    about = "" if certain else "about "
    words = [f"round 1: {about}{each[0]:,}"]
    if len(each) > 1:
        words.append(f"later rounds: {about}{_range(each[1:])}")
    return "; ".join([*words, f"whole run: {about}{sum(each):,}"])


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
