# SPDX-License-Identifier: Apache-2.0
"""Keys that only one of the tasks has: refused where the other one is set, since they would do nothing."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from fedlora.errors import ConfigError
from fedlora.training.settings import RENDERING, DataSettings

if TYPE_CHECKING:
    from fedlora.app.config.schema import Config

_OF_LANGUAGE: Final = ("format", "prompt", "completion", "context", "messages", "references", "choices", *RENDERING)
"""Keys of [data] that only examples of language modelling have."""


def with_split_of_task(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings of a config with the split that its task has by default: examples of language modelling have
    seldom kinds to be dealt by."""
    model, split = tree.get("model", {}), tree.get("split", {})
    if not isinstance(model, Mapping) or not isinstance(split, Mapping):
        return tree  # whoever checks the sections says so
    if model.get("task") != "generate" or "kind" in split:
        return tree
    return {**tree, "split": {**split, "kind": "iid"}}


def require_keys_of_task(config: "Config") -> None:
    """Refuse keys that the task of a config does not have.

    Raises:
        ConfigError: with the key, its value and what to do.
    """
    if config.model.task == "classify":
        defaults = {field.name: field.default for field in fields(DataSettings)}
        for key in _OF_LANGUAGE:
            value = getattr(config.data, key)
            if value != defaults[key]:
                raise ConfigError(
                    f"data.{key} is {value!r}, which is for language modelling, but model.task is 'classify': leave it "
                    f"out, or set model.task = 'generate'."
                )
        return
    if config.split.permuted:
        raise ConfigError(
            "split.permuted is true, which permutes labels, but model.task is 'generate', which has none: leave it out."
        )
    if config.adapter.head != "shared":
        raise ConfigError(
            f"adapter.head is {config.adapter.head!r}, but model.task is 'generate', and a language model has no head "
            f"besides its frozen weights: leave it out."
        )
