# SPDX-License-Identifier: Apache-2.0
"""Who takes part, what is scored when, and whom a deployed server waits for: [clients], [evaluate] and [deploy]."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fedlora.core.rounds import TestPart
from fedlora.core.settings import AboveZero, Positive, Range, Share

Profile = Literal["uniform", "heavy-tail", "normal"]
"""How ranks or budgets are spread over clients, by name."""

Weights = Literal["examples", "tokens", "equal"]
"""What a client counts by in every weighted mean over clients."""


@dataclass(frozen=True)
class ClientsSettings:
    """How clients differ, and which of them take part."""

    ranks: Annotated[list[Positive], Range(entries=1)] | Profile | None = None
    """A rank or budget for each client (a shorter list is repeated), or the name of a profile that spreads them:
    uniform (2 to 32), heavy-tail (2 to 16, most of them small), normal (1 to 16). By default all have adapter.rank."""
    weights: Weights = "examples"
    """What a client counts by in every weighted mean over clients; examples: its training examples; tokens: the tokens
    that a language model learns of them, which makes the mean that of all tokens; equal: all alike."""
    per_round: Positive | None = None
    """Number of clients that are drawn for a round; by default all take part."""
    dropout: Share = 0.0
    """Probability that a drawn client cannot be reached in a round."""
    norm_limit: AboveZero = 1e6
    """Largest Euclidean norm of an upload, over all its numbers; a larger one is refused."""
    client_batch: Positive | None = None
    """Number of clients that are trained together; by default 1 on a CPU and 16 on a GPU."""


@dataclass(frozen=True)
class EvaluateSettings:
    """When to score, and on which examples."""

    every: Annotated[int, Range(at_least=0)] = 1
    """Score after every so many rounds, and always after the last; 0: only after the last."""
    part: TestPart = "test"
    """test: score on the test set; validation: on the examples that split.validation sets apart."""
    all_metrics: bool = False
    """Score clients by every metric of the task. By default those are left out for which a client tells the server more
    than sums over all its test examples: F1, for which it tells how many examples it has of each label."""
    metrics: list[str] = field(default_factory=list)
    """generate: metrics of answers that the model generates, greedily, to every scored example: exact_match, rouge_l,
    bleu, chrf, gsm8k_strict, gsm8k_flexible; or chooses among given texts (data.choices) by their likelihood: choice,
    choice_per_byte. The first becomes the headline. By default nothing is answered, and the headline is the loss."""
    most_new_tokens: Positive | None = None
    """generate: the longest answer that is generated, in tokens; by default as many as model.max_length leaves room
    for."""


@dataclass(frozen=True)
class DeploySettings:
    """A federation across sites: whom the server waits for, and how long."""

    sites: Positive
    """Number of sites that must be there before the first round."""
    wait: AboveZero = 300.0
    """Seconds within which they must have come."""
    deadline: AboveZero | None = None
    """Seconds after which a round goes on without the sites that have not answered. By default five times the median
    answer of the last five rounds, at least 30 and at most an hour; before there is an answer, an hour."""
    quorum: Positive = 1
    """The run stops, and can be resumed, where fewer updates than this are accepted in a round."""
    most_examples: Positive = 100_000
    """Largest number of training examples that a site is counted with. The number is what the site says and sets its
    weight: choose the size of the largest site that you expect."""
    test: str | None = None
    """A file of labelled texts at the server, on which the global model is scored."""
