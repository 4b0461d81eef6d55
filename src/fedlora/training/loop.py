# SPDX-License-Identifier: Apache-2.0
"""The only loop that trains and the only one that scores, whatever the task and whatever the forward pass."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy
import torch
from torch import Tensor

from fedlora.core.adapter import AdapterSpec, Start, Tensors, on_device, without_idle_slots
from fedlora.core.metrics import Score, Scoring
from fedlora.core.rounds import Failure, FitJob, Fitted, ScoreJob, ScorePart
from fedlora.core.seeds import stream_seed
from fedlora.training.answers import Answer, AnswerScorer
from fedlora.training.batches import batches, step_count
from fedlora.training.client_fit import ClientFit, rate_factor
from fedlora.training.data.digests import model_digest
from fedlora.training.data.scored_parts import ScoredPart, ScoredParts, server_parts
from fedlora.training.data.split import Indices, Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.protocol import Forward
from fedlora.training.memory import Portions
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.task import Task


class ModelTrainer:
    """Trains and scores clients' adapters on a single resident base.

    Every client has its own batches, mask, sides, optimiser and head; clients whose jobs share their passes get what
    they would get alone, but for rounding.

    Args:
        forward: how the base makes logits.
        task: what the logits are for.
        settings: how clients train.
        train: all training examples.
        test: the server's test set.
        owned: which of them are whose; who owns nothing can be scored on the test set alone.
        unseen: clients that never train, see `Split.unseen`.
        seed: of the run.
        rounds: of the run, for the schedule.
        answers: what counts that which one pass of the model does not tell; None: the task has no such metrics.
    """

    def __init__(
        self,
        forward: Forward,
        task: Task,
        settings: TrainSettings,
        *,
        train: Tokens,
        test: Tokens,
        owned: Mapping[str, Owned],
        unseen: Mapping[str, Owned] | None = None,
        seed: int,
        rounds: int,
        answers: AnswerScorer | None = None,
    ) -> None:
        self._forward, self._task, self._settings = forward, task, settings
        self._train, self._test = train, test
        self._owned, self._unseen = owned, unseen or {}
        self._seed, self._rounds = seed, rounds
        self._fit_portions = Portions(settings.micro_batch, "train.micro_batch")
        self._score_portions = Portions(None, "the batch of a score")
        self._scored, self._answers = ScoredParts(), answers

    @property
    def spec(self) -> AdapterSpec:
        """The adapter that it trains."""
        return self._forward.spec

    @property
    def scoring(self) -> Scoring:
        """The metrics of its task."""
        return self._task.scoring

    @property
    def head(self) -> Tensors:
        """The base's dense parts, or those of the adapter that the run goes on from."""
        start = self.spec.start
        given = start.dense if start is not None else {}
        return {name: given.get(name, resident).float() for name, resident in self._forward.base.head.items()}

    def prepare(self) -> None:
        """Do beforehand what takes a while and is done once: see `Forward.prepare`."""
        for tokens in (self._train, self._test):
            self._forward.prepare(tokens)
            if tokens.choices is not None:
                self._forward.prepare(tokens.choices.tokens)

    def fit(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        """Train each job on its client's own examples, as many in a pass as the forward takes."""
        self._scored.forget()
        if self._answers is not None:
            self._answers.forget()
        answers: list[Fitted | Failure] = []
        for together in self._forward.passes(jobs, self._load, self._settings.dropout):
            answers += self._fit_together(together)
        return answers

    def score(self, jobs: Sequence[ScoreJob]) -> list[Score | Failure]:
        """Score each job's model.

        A client's part goes through the forward pass once: where the global model has the numbers of the client's, its
        score takes what was counted then. It is cut into the same passes either way, so that bits do not depend on it.
        """
        return [self._score(job) for job in jobs]

    def steps_of(self, job: FitJob) -> int:
        """How many optimiser steps a job takes."""
        duration = job.fit.duration or self._settings.duration
        return step_count(len(self._owned[job.client].train), self._settings.batch_size, duration)

    def parts_of(self, job: ScoreJob) -> dict[str | None, int]:
        """On how many examples a job is scored, by whose they are; None: nobody's."""
        if job.client is not None:
            return {job.client: len(self._part(job.client, job.part)[0])}
        return {client: len(part) for client, part in self._server_parts(job.part)}

    def _load(self, job: FitJob) -> float:
        """How many tokens a batch of a job has, about."""
        examples = self._owned[job.client].train
        return float(self._train.lengths[examples].mean()) * min(self._settings.batch_size, len(examples))

    def _fit_together(self, jobs: Sequence[FitJob]) -> list[Fitted | Failure]:
        fits = [self._begin(job) for job in jobs]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self._seed, "dropout", *_stream(jobs[0])))
            for step in range(max(len(fit.plan) for fit in fits)):
                active = [fit for fit in fits if fit.is_active(step)]
                if active:
                    self._advance(active, step)
        return [fit.answer() for fit in fits]

    def _begin(self, job: FitJob) -> ClientFit:
        fit, settings, client = job.fit, self._settings, self._owned[job.client]
        duration = fit.duration or settings.duration
        return ClientFit(
            job,
            client,
            list(batches(client.train, settings.batch_size, duration, self._seed, _stream(job))),
            head=dict(fit.start.adapter.dense) or dict(self.head),
            head_trains=self.spec.head != "frozen",
            settings=settings,
            device=self._forward.device,
        )

    def _advance(self, fits: Sequence[ClientFit], step: int) -> None:
        """One step of every fit."""
        for fit in fits:
            within = 0.0 if fit.job.fit.probe else step / len(fit.plan)
            fit.set_rate(rate_factor(self._settings, (fit.job.round - 1 + within) / self._rounds))
        largest = max(len(fit.plan[step]) for fit in fits)
        losses = self._fit_portions.run(largest, partial(self._gradients, fits, step))
        if len(fits) > 1 and not all(map(math.isfinite, losses)):
            for fit in fits:  # who of a pass is to blame, and everyone else's gradient, is seen without company
                self._advance([fit], step)
            return
        for fit, loss in zip(fits, losses, strict=True):
            if math.isfinite(loss):
                fit.step(loss, self._task.predictions(self._train, fit.plan[step]))
            else:
                fit.diverged(step, loss)

    def _gradients(self, fits: Sequence[ClientFit], step: int, size: int) -> list[float]:
        """Make the gradients of everyone's mean loss, at most `size` examples of each at a time; returns the losses."""
        for fit in fits:
            fit.forget_gradient()
        starts, losses = [fit.start for fit in fits], [0.0] * len(fits)
        made: list[tuple[int, Tensor]] = []
        for first in range(0, max(len(fit.plan[step]) for fit in fits), size):
            parts = [fit.plan[step][first : first + size] for fit in fits]
            total: Tensor | None = None
            for number, outputs in self._forward.outputs(self._train, starts, parts, self._settings.dropout):
                fit = fits[number]
                total_loss = self._task.loss(outputs, self._train, parts[number], fit.client)
                loss = total_loss / self._task.predictions(self._train, fit.plan[step])
                made.append((number, loss.detach()))
                total = loss if total is None else total + loss
            if total is not None and total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
        values = torch.stack([loss for _, loss in made]).tolist()  # a GPU is waited for once a step, not once a client
        for (number, _), value in zip(made, values, strict=True):
            losses[number] += value
        return losses

    def answers(self, job: ScoreJob) -> list[Answer]:
        """What the model of a score answers to each example; empty where no answers are scored."""
        scorer = self._answers
        return [] if scorer is None else [answer for asked in self._asked(job) for answer in scorer.answers(asked)]

    def _score(self, job: ScoreJob) -> Score:
        score = Score(0)
        for asked in self._asked(job):
            if job.client is not None:
                owned = self._part(job.client, job.part)[1]
                score, counted = self._count(asked, (owned, None))
                self._scored.keep(job.client, job.part, asked.model, counted)
                return score
            known = self._scored.find(asked.client, job.part, asked.model)
            score += self._count(asked, (None,))[0] if known is None else known
        return score

    def _asked(self, job: ScoreJob) -> Iterator[ScoredPart]:
        """The parts that a score is the sum of: a client's one, or those of the server's set."""
        adapter = job.start.adapter
        start = without_idle_slots(replace(job.start, adapter=adapter.with_dense(adapter.dense or self.head)))
        model, start = model_digest(start), on_device(start, self._forward.device)
        tokens = self._test if job.part == "test" else self._train
        if job.client is not None:
            examples, _ = self._part(job.client, job.part)
            yield ScoredPart(job.client, job.part, tokens, examples, start, model)
            return
        for name, examples in self._server_parts(job.part):
            yield ScoredPart(name, job.part, tokens, examples, start, model, globally=True)

    def _count(self, asked: ScoredPart, views: Sequence[Owned | None]) -> list[Score]:
        """The score of a model on some examples, from one pass, as each of some clients or the server (None) counts
        it."""
        tokens, examples = asked.tokens, asked.examples
        order = examples[numpy.argsort(tokens.lengths[examples], kind="stable")]
        scores = [Score(0) for _ in views]
        with torch.inference_mode():
            for piece in self._forward.pieces(tokens, order):
                found = self._score_portions.run(len(piece), partial(self._counted, tokens, piece, asked.start, views))
                scores = [score + more for score, more in zip(scores, found, strict=True)]
        if self._answers is not None:
            answered = self._answers.score(asked)
            scores = [score + answered for score in scores]
        return scores

    def _counted(
        self, tokens: Tokens, examples: Indices, start: Start, views: Sequence[Owned | None], size: int
    ) -> list[Score]:
        """The scores of some examples, `size` in a pass, as each of the views counts them."""
        scores = [Score(0) for _ in views]
        for first in range(0, len(examples), size):
            some = examples[first : first + size]
            for _, outputs in self._forward.outputs(tokens, [start], [some]):
                for number, view in enumerate(views):
                    scores[number] += Score(len(some), self._task.sums(outputs, tokens, some, view))
        return scores

    def _part(self, client: str, part: ScorePart) -> tuple[Indices, Owned]:
        """The examples of a client that a score is of, and who the client is."""
        owned = self._unseen[client] if part == "unseen" else self._owned[client]
        return (owned.validation if part == "validation" else owned.test), owned

    def _server_parts(self, part: ScorePart) -> Iterator[tuple[str | None, Indices]]:
        """The server's set of a part; of unseen clients it has none."""
        if part != "unseen":
            yield from server_parts(self._owned, part, len(self._test))


def _stream(job: FitJob) -> tuple[str, int, str]:
    """The name of the random stream of a job's batches; the dropout's begins with it."""
    return ("probe batches" if job.fit.probe else "batches", job.round, job.client)
