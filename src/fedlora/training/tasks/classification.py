# SPDX-License-Identifier: Apache-2.0
"""Classification of texts: one label of several for each text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedlora.core.metrics import EXAMPLES, Metric, Range, Scoring, Sums, mean_of
from fedlora.training.data.split import Indices, Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import Outputs, made

_HIT, _PREDICTED, _LABELLED = "hit", "predicted", "labelled"
"""Of one label, `hit.3`: examples that have it and are predicted to; that are predicted to; that have it."""


@dataclass(frozen=True)
class Classification:
    """One of several labels for each text.

    Args:
        labels: their names, in the order of the logits.
        clients_count_labels: whether a client's score has the counts by label, from which its F1 comes. The server then
            learns how many test examples of each label a client has.
    """

    labels: Sequence[str]
    clients_count_labels: bool = False

    @property
    def name(self) -> str:
        """As records call it."""
        return "classification"

    @property
    def chance(self) -> float:
        """The accuracy of guessing one label of L with equal probabilities: 1 / L."""
        return 1.0 / len(self.labels)

    @property
    def scoring(self) -> Scoring:
        """Accuracy, mean loss, and F1 where counts by label are known."""
        count = len(self.labels)
        sums: dict[str, Range] = {"correct": (0.0, 1.0), "loss": (-math.inf, math.inf)}
        if self.clients_count_labels:
            counts = (f"{kind}.{label}" for kind in (_HIT, _PREDICTED, _LABELLED) for label in range(count))
            sums |= dict.fromkeys(counts, (0.0, 1.0))
        metrics = (
            Metric("accuracy", True, mean_of("correct"), "percent", "accuracy, %"),
            Metric("loss", False, mean_of("loss"), "plain", "mean loss an example"),
            Metric("macro_f1", True, partial(macro_f1, count), "percent", "macro F1, %"),
            Metric("weighted_f1", True, partial(weighted_f1, count), "percent", "weighted F1, %"),
        )
        return Scoring(metrics, sums)

    def loss(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Tensor:
        """Cross-entropy of logits (examples, labels), summed over the examples."""
        logits = outputs.logits()
        targets = torch.from_numpy(_targets(tokens, examples, client)).to(logits.device)
        return functional.cross_entropy(logits, targets, reduction="sum")

    def predictions(self, tokens: Tokens, examples: Indices) -> int:
        """One an example."""
        return len(examples)

    def names(self, client: Owned | None) -> list[str]:
        """The labels in the order of a model's logits: a client may have numbered them in its own order."""
        if client is None or client.label_permutation is None:
            return list(self.labels)
        by_number = dict(zip(client.label_permutation.tolist(), self.labels, strict=True))
        return [by_number[number] for number in range(len(self.labels))]

    def answers(self, logits: Tensor, names: Sequence[str]) -> list[list[tuple[str, float]]]:
        """Every label with its probability, the likeliest first, for logits (examples, labels)."""
        answers = []
        for probabilities in logits.softmax(dim=1):
            order = probabilities.argsort(descending=True).tolist()
            answers.append([(names[index], float(probabilities[index])) for index in order])
        return answers

    def sums(self, outputs: Outputs, tokens: Tokens, examples: Indices, client: Owned | None) -> Sums:
        """Correct answers and loss, and counts by label (by the dataset's numbers) where they may be told."""
        logits = outputs.logits()
        loss = float(self.loss(made(logits), tokens, examples, client))
        predicted = logits.argmax(dim=1).cpu().numpy()
        true = _targets(tokens, examples, client)
        sums = {"correct": int((predicted == true).sum()), "loss": loss}
        if client is not None and not self.clients_count_labels:
            return sums
        if client is not None and client.label_permutation is not None:
            back = numpy.argsort(client.label_permutation)
            predicted, true = back[predicted], back[true]
        found = ((_HIT, true[predicted == true]), (_PREDICTED, predicted), (_LABELLED, true))
        return sums | {f"{kind}.{label}": n for kind, labels in found for label, n in _counts(labels)}


def _targets(tokens: Tokens, examples: Indices, client: Owned | None) -> NDArray[numpy.int64]:
    """The label of each example, in the client's own numbers where it has such."""
    labels = tokens.labels[examples]
    if client is not None and client.label_permutation is not None:
        labels = client.label_permutation[labels]
    return labels


def _counts(labels: NDArray[numpy.int64]) -> list[tuple[int, int]]:
    """(label, how often) of the labels that occur."""
    numbers, counts = numpy.unique(labels, return_counts=True)
    return list(zip(numbers.tolist(), counts.tolist(), strict=True))


def macro_f1(labels: int, sums: Sums) -> float | None:
    """The mean of the labels' F1, every label that occurs or is predicted counting the same."""
    each = [f1 for f1, _ in _each_f1(labels, sums)]
    return sum(each) / len(each) if each else None


def weighted_f1(labels: int, sums: Sums) -> float | None:
    """The mean of the labels' F1, weighted by how many examples have the label."""
    each = _each_f1(labels, sums)
    return sum(f1 * support for f1, support in each) / sums[EXAMPLES] if each else None


def _each_f1(labels: int, sums: Sums) -> list[tuple[float, float]]:
    """(2 TP / (2 TP + FP + FN), examples) of every label that occurs or is predicted; empty without counts."""
    found = []
    for label in range(labels):
        hit, predicted, labelled = (sums.get(f"{kind}.{label}", 0) for kind in (_HIT, _PREDICTED, _LABELLED))
        if predicted or labelled:
            found.append((2.0 * hit / (predicted + labelled), labelled))
    return found
