# SPDX-License-Identifier: Apache-2.0
"""A run's model asked about a text."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch

from fedlora.app.build import load_named_base
from fedlora.app.config import make_config
from fedlora.core.adapter import Start
from fedlora.errors import ModelError, RunFolderError
from fedlora.federation.journal import CONFIG, client_folder
from fedlora.training.peft_files import read_peft


def adapter_folder(run: Path, client: str | None) -> Path:
    """Where a finished run keeps its global adapter, or a client's own.

    Raises:
        RunFolderError: there is no such adapter; the sentence says which there are.
    """
    if not (run / "summary.json").is_file():
        raise RunFolderError(f"{run} is no finished run: it has no summary.json.")
    folder = (client_folder(run, client) if client else run) / "adapter"
    if folder.is_dir():
        return folder
    there = sorted(
        json.loads(path.read_text(encoding="utf-8"))["client"] for path in run.glob("clients/*/adapter/fedlora.json")
    )
    hint = f"personal adapters: {', '.join(there)}; choose one with --client." if there else "it has no other."
    raise RunFolderError(f"{run} has no {f'adapter of client {client!r}' if client else 'global adapter'}; {hint}")


def predict(run: Path, texts: Sequence[str], client: str | None = None) -> list[list[tuple[str, float]]]:
    """The labels of each text with their probabilities, the likeliest first.

    Raises:
        UserError: the run, its base or its adapter cannot be used.
    """
    folder = adapter_folder(run, client)
    about = json.loads((folder / "fedlora.json").read_text(encoding="utf-8"))
    config = make_config(tomllib.loads((run / CONFIG).read_text(encoding="utf-8")))
    base = load_named_base(config, about["labels"])
    if base.fingerprint != about["base_fingerprint"]:
        raise ModelError(
            f"model.base is {config.model.base!r}, but its weights are not those that {run} was trained on."
        )
    start = Start(read_peft(folder, base, about["scale"]))
    batch = base.tokenizer(
        list(texts), padding=True, truncation=True, max_length=config.model.max_length, return_tensors="pt"
    )
    with torch.inference_mode():
        chances = base.logits(batch["input_ids"], batch["attention_mask"], start, about["scale"]).softmax(dim=1)
    result = []
    for own in chances:
        order = own.argsort(descending=True).tolist()
        result.append([(about["labels"][index], float(own[index])) for index in order])
    return result
