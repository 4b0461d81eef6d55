"""The one task so far: its sums, its metrics by hand, and what a client's score does not tell."""

import math

import numpy
import pytest
import torch
from tiny_models import LABELS, some_tokens
from torch.nn import functional

from fedlora.core.metrics import EXAMPLES, Metric, Score, Scoring, mean_of
from fedlora.training.data.split import Owned
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.outputs import made
from fedlora.training.tasks.classification import Classification

TASK = Classification(LABELS)
COUNTING = Classification(LABELS, clients_count_labels=True)
NOBODY = numpy.zeros(0, dtype=numpy.int64)


def logits_for(predicted):
    """Logits whose largest is the given label."""
    return 5.0 * functional.one_hot(torch.tensor(predicted), len(LABELS)).float()


def labelled(true):
    """Examples of one token with these labels."""
    count = len(true)
    return Tokens(numpy.ones(count, dtype=numpy.int32), numpy.arange(count + 1), numpy.array(true))


def score_of(task, predicted, true, client=None):
    sums = task.sums(made(logits_for(predicted)), labelled(true), numpy.arange(len(true)), client)
    return Score(len(true), sums)


def test_metrics_by_hand():
    """Labels 0 0 0 1 1 2, answers 0 0 1 1 1 1: F1 of 0 is 4/5, of 1 is 4/6, of 2 is 0."""
    score = score_of(TASK, [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2])
    values = TASK.scoring.values(score)
    right, wrong = -math.log(math.exp(5) / (math.exp(5) + 2)), -math.log(1 / (math.exp(5) + 2))
    assert values["accuracy"] == 4 / 6
    assert values["loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
    assert values["macro_f1"] == pytest.approx((4 / 5 + 4 / 6 + 0) / 3)
    assert values["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 * 4 / 6 + 0) / 6)
    assert list(values) == ["accuracy", "loss", "macro_f1", "weighted_f1"]


def test_a_label_that_neither_occurs_nor_is_predicted_does_not_count():
    score = score_of(TASK, [0, 0], [0, 1])
    assert TASK.scoring.values(score)["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_scores_of_parts_add_up_to_the_score_of_the_whole():
    predicted, true = [0, 2, 1, 1, 2, 0, 1], [0, 1, 1, 2, 2, 2, 0]
    whole = score_of(TASK, predicted, true)
    parts = score_of(TASK, predicted[:3], true[:3]) + score_of(TASK, predicted[3:], true[3:])
    assert parts.examples == whole.examples
    assert parts.sums.keys() == whole.sums.keys()
    assert TASK.scoring.values(parts) == pytest.approx(TASK.scoring.values(whole))


def test_a_client_tells_its_label_counts_only_where_that_is_wanted():
    client = Owned(NOBODY, NOBODY, NOBODY)
    told = score_of(TASK, [0, 1], [0, 2], client)
    assert set(told.sums) == {"correct", "loss"}
    assert set(TASK.scoring.values(told)) == {"accuracy", "loss"}
    assert set(COUNTING.scoring.values(score_of(COUNTING, [0, 1], [0, 2], client))) > {"macro_f1"}


def test_a_client_counts_labels_by_the_numbers_of_the_data():
    """Its label 2 is the data's 0: what it tells adds up with what others tell."""
    renamed = Owned(NOBODY, NOBODY, NOBODY, numpy.array([2, 0, 1]))
    tokens = some_tokens()
    examples = numpy.arange(6)
    predicted = [[2, 0, 1][label] for label in tokens.labels[examples]]
    sums = COUNTING.sums(made(logits_for(predicted)), tokens, examples, renamed)
    for label in range(3):
        assert sums.get(f"hit.{label}", 0) == int((tokens.labels[examples] == label).sum())
    assert COUNTING.names(renamed) == [LABELS[1], LABELS[2], LABELS[0]]
    assert COUNTING.names(None) == list(LABELS)


def test_the_loss_is_a_sum_over_examples():
    logits, tokens = torch.randn(5, 3), labelled([0, 1, 2, 1, 0])
    each = functional.cross_entropy(logits, torch.from_numpy(tokens.labels), reduction="none")
    torch.testing.assert_close(TASK.loss(made(logits), tokens, numpy.arange(5), None), each.sum())
    assert TASK.predictions(tokens, numpy.arange(5)) == 5


def test_answers_come_likeliest_first():
    ((first, *others),) = TASK.answers(logits_for([1]), TASK.names(None))
    assert first == (LABELS[1], pytest.approx(math.exp(5) / (math.exp(5) + 2)))
    assert sum(chance for _, chance in others) == pytest.approx(1 - first[1], abs=1e-6)


def test_chance_is_one_of_the_labels():
    assert TASK.chance == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("score", "fault"),
    [
        (Score(3, {"correct": 3, "loss": 2.5}), None),
        (Score(3, {"correct": 2}), None),
        (Score(0), None),
        (Score(3, {"correct": 4}), "cannot be"),
        (Score(3, {"correct": -1}), "cannot be"),
        (Score(0, {"correct": 1}), "cannot be"),
        (Score(3, {"loss": math.inf}), "not finite"),
        (Score(3, {"loss": 10**400}), "not finite"),
        (Score(3, {"hit.1": 1}), "not asked for"),
    ],
)
def test_what_a_score_from_elsewhere_may_hold(score, fault):
    found = TASK.scoring.fault(score)
    assert found is None if fault is None else fault in found
    assert COUNTING.scoring.fault(Score(3, {"hit.1": 3})) is None


def test_a_metric_of_which_less_is_better_is_turned_for_choices():
    perplexity = Metric("perplexity", False, lambda sums: math.exp(sums["loss"] / sums[EXAMPLES]))
    scoring = Scoring((perplexity, Metric("loss", False, mean_of("loss"))), {"loss": (0.0, math.inf)})
    good, bad = Score(2, {"loss": 1.0}), Score(2, {"loss": 4.0})
    assert scoring.goodness(good) > scoring.goodness(bad)
    assert perplexity.of(Score(0)) is None
    assert perplexity.words(2.0) == "2.000"
