# SPDX-License-Identifier: Apache-2.0
"""A run's model asked about a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from fedlora.app.build.base import load_named_base
from fedlora.app.config.schema import Config, changed_config, make_config
from fedlora.core.adapter import Adapter, AdapterSpec, Start, on_device
from fedlora.errors import ModelError, RunFolderError
from fedlora.federation.journal import client_folder
from fedlora.federation.same_run import CONFIG
from fedlora.run_files import read_object, read_toml
from fedlora.training.bases.loading import load_base, load_causal_base
from fedlora.training.bases.model import Base
from fedlora.training.bases.peft_files import read_peft, read_projection
from fedlora.training.encoding.readable import longest
from fedlora.training.tasks.classification import Classification

_ABOUT = "fedlora.json"
_SHAPE = {"labels": list, "kind": str, "scale": int | float, "client": str | None}
"""What predictions and generations need of it."""
Task = Literal["classify", "generate"]
_OTHER_TASK: Final[Mapping[Task, str]] = {
    "classify": "{run} is the run of a language model, which writes text and knows no labels: ask it with fedlora "
    "generate.",
    "generate": "{run} is the run of a classifier, which writes no text: ask it with fedlora predict.",
}
"""Why a run's model is not asked for a task."""
Answer = dict[str, float]
"""Label -> probability, the likeliest first."""


def adapter_folder(run: Path, client: str | None) -> Path:
    """Where a finished run keeps its global model, or a client's personal one: an adapter, or a whole model.

    Raises:
        RunFolderError: there is none; the sentence says which there are.
    """
    if not (run / "summary.json").is_file():
        what = "a run that is not finished" if (run / CONFIG).is_file() else "no finished run"
        raise RunFolderError(f"{run} is {what}: it has no summary.json.")
    home = client_folder(run, client) if client else run
    for place in ("adapter", "model"):
        if (home / place / _ABOUT).is_file():
            return home / place
    found = run.glob(f"clients/*/*/{_ABOUT}")
    there = sorted(str(read_object(path, _SHAPE)["client"]) for path in found)
    hint = f"personal adapters: {', '.join(there)}; choose one with --client." if there else "it has no other."
    raise RunFolderError(f"{run} has {f'no adapter of client {client!r}' if client else 'no global adapter'}; {hint}")


def predict(
    run: Path, texts: Sequence[str], client: str | None = None, base: str | None = None
) -> list[list[tuple[str, float]]]:
    """The answers of the run's task to each text with their probabilities, the likeliest first.

    Args:
        run: the folder of a finished run, or the one that a site keeps of a run.
        texts: any number.
        client: whose personal model is asked; None: the global one.
        base: where the base is now, a folder or a name on the hub; None: where the run's config says.

    Raises:
        UserError: the run, its base or its adapter cannot be used.
    """
    asked = asked_model(run, client, base, "classify")
    return answers(asked.config, asked.base, asked.start, asked.spec, texts, asked.about["labels"])


@dataclass(frozen=True, slots=True, eq=False)
class AskedModel:
    """A model of a finished run, ready to be asked."""

    config: Config
    """Of the run, with the base where it is now."""
    base: Base
    start: Start
    spec: AdapterSpec
    about: Mapping[str, Any]
    """What its fedlora.json says."""


def asked_model(run: Path, client: str | None, base: str | None, task: Task) -> AskedModel:
    """A model of a run.

    Args:
        run: as of `predict`.
        client: likewise.
        base: likewise.
        task: what it is to be asked for.

    Raises:
        UserError: as of `predict`, or the run's model is for another task.
    """
    folder = adapter_folder(run, client)
    about = read_object(folder / _ABOUT, _SHAPE)
    config = make_config(read_toml(run / CONFIG))
    require_task(config, task, str(run))
    if base is not None:
        config = changed_config(config, {"model": {"base": base}})
    resident, start, spec = stored_model(run, folder, about, config)
    return AskedModel(config, resident, start, spec, about)


def require_task(config: Config, task: Task, run: str) -> None:
    """Refuse to ask a run's model for what it is not for.

    Raises:
        RunFolderError: with the command that asks it.
    """
    if config.model.task != task:
        raise RunFolderError(_OTHER_TASK[task].format(run=run))


def answers(  # noqa: PLR0917  each is another kind of thing
    config: Config, base: Base, start: Start, spec: AdapterSpec, texts: Sequence[str], labels: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """A model's answers to texts, see `predict`.

    Args:
        config: of the run.
        base: of the run, on the device of its weights.
        start: the adapter with its head.
        spec: what the adapter is.
        texts: any number.
        labels: what the logits stand for.
    """
    if not texts:
        return []
    device = next(base.model.parameters()).device
    cut = longest(base.model, config.model.max_length)
    batch = base.tokenizer(list(texts), padding=True, truncation=True, max_length=cut, return_tensors="pt").to(device)
    with torch.inference_mode():
        logits = base.logits(batch["input_ids"], batch["attention_mask"], on_device(start, str(device)), spec)
        return Classification(tuple(labels)).answers(logits, labels)


def stored_model(run: Path, folder: Path, about: Mapping[str, Any], config: Config) -> tuple[Base, Start, AdapterSpec]:
    """The base of a run with what a folder of the run keeps: an adapter, or a whole model.

    Args:
        run: the run's folder, for the sentence.
        folder: of the adapter or the model.
        about: the contents of its fedlora.json.
        config: of the run, with the base where it is now.

    Raises:
        UserError: base or adapter cannot be loaded, or the base is not the run's.
    """
    if about["kind"] == "dense":
        generates = config.model.task == "generate"
        whole = load_causal_base(str(folder)) if generates else load_base(str(folder), about["labels"])
        return whole, Start(Adapter({}, {}, kind="dense")), AdapterSpec({}, 1, 1.0, "dense")
    base = load_named_base(config, about["labels"])
    if base.fingerprint != about.get("base_fingerprint"):
        raise ModelError(
            f"model.base is {config.model.base!r}, but its weights are not those of the run {run}: name with --base "
            f"where the run's base is now."
        )
    pair = read_projection(folder)
    spec = base.spec(pair.rank if pair else 1, about["scale"], about["kind"], projection=pair)
    return base, Start(read_peft(folder, base, spec)), spec
