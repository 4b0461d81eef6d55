"""Loss, perplexity, bits per byte and token accuracy: quotients of sums, whatever the batches."""

import math

import pytest
import torch

from fedlora.core.metrics import Score
from fedlora.training.metrics.predicted import prediction_scoring

SCORING = prediction_scoring(10)


def score(logits, targets, texts):
    """The sums of one example a row of logits (examples, tokens, vocabulary), -100 where nothing is predicted."""
    total = Score(0)
    for row, target, text in zip(logits, targets, texts, strict=True):
        loss = torch.nn.functional.cross_entropy(row, target, ignore_index=-100, reduction="sum")
        there = target != -100
        sums = {"loss": float(loss), "tokens": int(there.sum()), "bytes": len(text.encode())}
        total += Score(1, {**sums, "hits": int((row.argmax(1) == target)[there].sum())})
    return total


def test_the_metrics_are_those_of_all_tokens_together():
    logits = torch.randn(3, 5, 7, dtype=torch.float64)
    targets = torch.randint(0, 7, (3, 5))
    targets[0, 1:] = -100  # examples of one, three and five tokens: a mean of means would be another number
    targets[1, 3:] = -100
    values = SCORING.values(score(logits, targets, ["a", "bcd", "äö"]))
    expected = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100))
    assert values["loss"] == pytest.approx(expected)
    assert values["perplexity"] == pytest.approx(math.exp(expected))
    assert values["bits_per_byte"] == pytest.approx(expected * 9 / math.log(2) / 8)
    told = targets != -100
    assert values["token_accuracy"] == pytest.approx(float((logits.argmax(2) == targets)[told].double().mean()))


def test_the_loss_of_a_model_that_knows_nothing_is_the_logarithm_of_the_vocabulary():
    values = SCORING.values(score(torch.zeros(2, 4, 8), torch.ones(2, 4, dtype=torch.int64), ["abcd", "efgh"]))
    assert values["perplexity"] == pytest.approx(8)
    assert values["bits_per_byte"] == pytest.approx(3)
    assert values["token_accuracy"] == 0


def test_without_tokens_nothing_is_told():
    assert SCORING.values(Score(2)) == {}
    assert SCORING.values(Score(1, {"loss": 2.0, "tokens": 1})).keys() == {"loss", "perplexity", "token_accuracy"}


def test_a_hopeless_model_has_a_finite_perplexity():
    assert math.isfinite(SCORING.values(Score(1, {"loss": 1e6, "tokens": 1}))["perplexity"])


@pytest.mark.parametrize("sums", [{"tokens": 11}, {"hits": -1}, {"loss": math.nan}, {"other": 1}])
def test_scores_that_cannot_be_are_refused(sums):
    assert SCORING.fault(Score(1, sums))
    assert SCORING.fault(Score(1, {"tokens": 10, "hits": 10, "loss": 3.0, "bytes": 40})) is None
