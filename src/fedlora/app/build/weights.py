# SPDX-License-Identifier: Apache-2.0
"""What a client counts as in every weighted mean over clients, by clients.weights."""

from fedlora.app.config.schema import Config
from fedlora.core.rounds import Client
from fedlora.errors import ConfigError
from fedlora.federation.settings import Weights
from fedlora.training.data.split import Indices
from fedlora.training.encoding.tokens import Tokens


def require_weights(config: Config) -> None:
    """Refuse weights that the task does not have.

    Raises:
        ConfigError: by tokens, where labels are learned.
    """
    if config.clients.weights == "tokens" and config.model.task != "generate":
        raise ConfigError(
            f"clients.weights is 'tokens', which counts the tokens that a language model learns, but model.task is "
            f"{config.model.task!r}, which learns one label for each text: set it to 'examples' or 'equal'."
        )


def weight_of(weights: Weights, tokens: Tokens, examples: Indices) -> float | None:
    """What a client counts as with these training examples; None: their number.

    Args:
        weights: as clients.weights says.
        tokens: of all training examples.
        examples: the client's, among them.
    """
    match weights:
        case "examples":
            return None
        case "tokens":
            return float(tokens.supervised_lengths[examples].sum())
        case "equal":
            return 1.0


def require_weight(config: Config, client: Client) -> None:
    """Refuse a weight that cannot be, of a client that says it of itself.

    By tokens it is at most model.max_length for each of its examples, whose number is bounded.

    Raises:
        ConfigError: with the weight and what was expected.
    """
    weights, weight = config.clients.weights, client.counted_as
    most = client.examples * config.model.max_length
    expected = {
        "examples": (weight is None, "none besides its number of examples"),
        "tokens": (weight is not None and 1 <= weight <= most and weight == int(weight), f"1 to {most} learned tokens"),
        "equal": (weight == 1.0, "1"),
    }
    fits, told = expected[weights]
    if not fits:
        raise ConfigError(f"its weight is {weight}, but clients.weights is {weights!r}: expected {told}.")
