# SPDX-License-Identifier: Apache-2.0
"""Calls of a trainer whose errors are those of single clients.

A trainer answers several clients at a time. Where such a call raises, each of them is asked for again, alone, so that
only the client whose data or order caused the error fails, in a simulation as at a site.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from fedlora.core.metrics import Score
from fedlora.core.rounds import Failure, FailureKind, FitJob, Fitted, ScoreJob, Trainer
from fedlora.errors import StateLostError

Job = TypeVar("Job")
Answer = TypeVar("Answer")
_LONGEST = 500
"""Characters of an exception that a reason keeps."""


def failure_of(client: str, round: int, error: Exception) -> Failure:
    """An exception as the failure of the client at which it was raised."""
    text = " ".join(str(error).split())[:_LONGEST]
    kind: FailureKind = "state lost" if isinstance(error, StateLostError) else "error"
    return Failure(client, round, f"{type(error).__name__}: {text}", kind)


def fit_each(trainer: Trainer, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
    """What a trainer makes of the jobs; an exception, or a loss that is no finite number, is its client's failure."""

    def failed(job: FitJob, error: Exception) -> Fitted | Failure:
        return failure_of(job.client, job.round, error)

    answers = _each(trainer.fit, jobs, failed)
    return [_finite(job, answer) for job, answer in zip(jobs, answers, strict=True)]


def score_each(trainer: Trainer, jobs: Sequence[ScoreJob], rounds: Sequence[int]) -> list[Score | Failure]:
    """The scores of the jobs; an exception is its client's failure.

    Args:
        trainer: scores.
        jobs: of one client each.
        rounds: of each job, for its failure.
    """
    at = dict(zip(map(id, jobs), rounds, strict=True))

    def failed(job: ScoreJob, error: Exception) -> Score | Failure:
        return failure_of(job.client or "the server", at[id(job)], error)

    return _each(trainer.score, jobs, failed)


def _each(
    call: Callable[[Sequence[Job]], Sequence[Answer]],
    jobs: Sequence[Job],
    failed: Callable[[Job, Exception], Answer],
) -> list[Answer]:
    if not jobs:
        return []
    try:
        return list(call(jobs))
    except Exception as error:
        if len(jobs) == 1:
            return [failed(jobs[0], error)]
    # Outside of the handler: the exception would hold the memory of what failed while the others are served.
    return [answer for job in jobs for answer in _each(call, [job], failed)]


def _finite(job: FitJob, answer: Fitted | Failure) -> Fitted | Failure:
    if isinstance(answer, Fitted) and not math.isfinite(answer.loss):
        return Failure(job.client, job.round, f"the loss is {answer.loss}", "diverged")
    return answer
