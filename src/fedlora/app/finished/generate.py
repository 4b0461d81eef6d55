# SPDX-License-Identifier: Apache-2.0
"""A run's language model asked to go on from prompts, which are rendered as the run's examples were."""

from collections.abc import Sequence
from pathlib import Path

from fedlora.app.finished.asking import as_asked
from fedlora.app.finished.predict import AskedModel, asked_model
from fedlora.core.adapter import on_device
from fedlora.training.encoding.render import Prompt, Renderer, make_renderer, prompt_ids
from fedlora.training.generation import Generated, Limits
from fedlora.training.generation import generate as generated


def generate(
    run: Path,
    prompts: Sequence[Prompt],
    client: str | None = None,
    base: str | None = None,
    most: int | None = None,
) -> list[Generated]:
    """The greedy answer of a run's model to each prompt.

    Args:
        run: the folder of a finished run, or the one that a site keeps of a run.
        prompts: any number, texts or messages.
        client: whose personal model is asked; None: the global one.
        base: where the base is now, a folder or a name on the hub; None: where the run's config says.
        most: the most tokens of an answer; None: evaluate.most_new_tokens of the run.

    Raises:
        UserError: the run, its base or its adapter cannot be used, its model writes no text, or a prompt leaves no
            room for an answer.
    """
    return continued(asked_model(run, client, base, "generate"), prompts, most)


def continued(asked: AskedModel, prompts: Sequence[Prompt], most: int | None = None) -> list[Generated]:
    """A model's greedy answers to prompts, see `generate`.

    Raises:
        UserError: a prompt leaves no room for an answer, or the chat template cannot take it.
    """
    renderer = _renderer(asked, prompts)
    limit = asked.config.evaluate.most_new_tokens if most is None else most
    limits = Limits(renderer.stops, renderer.max_length, limit)
    ids = [prompt_ids(prompt, renderer) for prompt in prompts]
    device = str(next(asked.base.model.parameters()).device)
    return generated(asked.base, asked.spec, on_device(asked.start, device), ids, limits)


def _renderer(asked: AskedModel, prompts: Sequence[Prompt]) -> Renderer:
    """The run's; prompts go through the chat template where its examples did."""
    settings, base = as_asked(asked.config, asked.about.get("asked")), asked.base
    return make_renderer(prompts, base.tokenizer, base.name, asked.config.model.max_length, settings)
