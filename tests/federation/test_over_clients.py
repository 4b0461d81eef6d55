"""How metrics spread over clients, by hand."""

import pytest

from fedlora.core.metrics import Score
from fedlora.federation.over_clients import spread, spreads
from fedlora.federation.record import personal
from fedlora.training.tasks.classification import Classification

SCORING = Classification(("a", "b")).scoring


def score(examples, correct, loss):
    return Score(examples, {"correct": correct, "loss": loss})


def test_by_hand():
    """Accuracies 1, 1/2, 0 of 2, 4, 4 examples; losses 1, 2, 3 an example. Worst: the least accurate, the greatest loss."""
    scores = [score(2, 2, 2.0), score(4, 2, 8.0), score(4, 0, 12.0), None, Score(0)]
    told = spreads(scores, SCORING)
    assert list(told) == ["accuracy", "loss"]  # no counts by label, so no F1
    accuracy, loss = told["accuracy"], told["loss"]
    assert (accuracy.mean, accuracy.weighted_mean, accuracy.worst_tenth, accuracy.count) == (0.5, 0.4, 0.0, 3)
    assert (loss.mean, loss.weighted_mean, loss.worst_tenth, loss.count) == (2.0, 2.2, 3.0, 3)
    assert loss.standard_deviation == pytest.approx((2 / 3) ** 0.5)


def test_the_worst_tenth_of_eleven_clients_is_two():
    scores = [score(10, n, 0.0) for n in range(11)]
    assert spread(scores, SCORING.headline).worst_tenth == pytest.approx(0.05)


def test_the_headline_is_that_of_the_personal_scores():
    scores = [score(2 + n, n, float(n)) for n in range(13)]
    told, whole = spreads(scores, SCORING)["accuracy"], personal(scores, SCORING)
    assert (told.mean, told.weighted_mean, told.standard_deviation, told.worst_tenth, told.count) == (
        whole.mean,
        whole.weighted_mean,
        whole.standard_deviation,
        whole.worst_tenth,
        whole.count,
    )


def test_no_score_no_spread():
    assert spreads([None, Score(0)], SCORING) == {}
