# SPDX-License-Identifier: Apache-2.0
"""A run's model in the forms that others take: its PEFT directory, one of a single rank, a whole model folder."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedlora.app.build.trainer import make_task
from fedlora.app.config.schema import changed_config, make_config
from fedlora.app.finished.card import model_card
from fedlora.app.finished.predict import adapter_folder, stored_model
from fedlora.core.adapter import AdapterSpec, Start
from fedlora.errors import FedloraError, ModelError, RunFolderError
from fedlora.federation.files import write_json, write_whole
from fedlora.federation.journal import SUMMARY
from fedlora.federation.same_run import CONFIG
from fedlora.run_files import read_object, read_toml
from fedlora.training.bases.model import Base
from fedlora.training.bases.model_files import write_model, write_tokenizer
from fedlora.training.bases.one_rank import one_rank
from fedlora.training.bases.peft_files import write_peft

_ABOUT, _CARD = "fedlora.json", "README.md"
_SHAPE = {"labels": list, "kind": str, "scale": int | float, "base": str, "base_fingerprint": str, "client": str | None}


def export_copy(run: Path, target: Path, client: str | None = None) -> str:
    """Copy a run's adapter, or its whole model, out of its folder; returns what it is.

    Args:
        run: the folder of a finished run, or the one that a site keeps of a run.
        target: a folder that is not there yet.
        client: whose personal model; None: the global one.

    Raises:
        RunFolderError: the run has no such model, or the folder is there or cannot be written.
    """
    source = adapter_folder(run, client)
    _write(target, lambda: shutil.copytree(source, target))
    if _about(source)["kind"] == "dense":
        return "a whole model; load it with from_pretrained"
    return "a PEFT directory; load it with PeftModel.from_pretrained"


def export_merged(run: Path, target: Path, client: str | None = None, base: str | None = None) -> str:
    """Write the base with the run's adapter added to its weights, and the tokenizer; arguments as of `export_copy`.

    Args:
        base: where the base is now, a folder or a name on the hub; None: where the run's config says.

    Raises:
        UserError: as `export_copy`, or the base is not the run's.
    """
    source = adapter_folder(run, client)
    about = _about(source)
    if about["kind"] == "dense":
        return export_copy(run, target, client)
    resident, start, spec = _stored(run, source, about, base)
    head = start.adapter.dense

    def write() -> None:
        write_model(target, start, spec, resident, head)
        _describe(target, run, {**about, "kind": "dense"}, resident, "The adapter has been added to the weights.")

    _write(target, write)
    return "a whole model with its tokenizer; load it with from_pretrained"


def export_one_rank(run: Path, target: Path, client: str | None = None, base: str | None = None) -> str:
    """Write the run's adapter with one rank for all maps, as vLLM takes it; arguments as of `export_merged`.

    Raises:
        UserError: as `export_merged`, or what the run made is no LoRA adapter of a language model.
    """
    source = adapter_folder(run, client)
    about = _about(source)
    if about["labels"]:
        raise ModelError(
            f"{run} trained a classifier, whose head vLLM takes in no adapter: export the whole model with --merged."
        )
    if about["kind"] == "dense":
        raise ModelError(
            f"{run} changed the base's weights themselves, which no adapter can hold: export the whole model with "
            f"--merged."
        )
    resident, start, spec = _stored(run, source, about, base)
    padded, one = one_rank(start, spec)

    def write() -> None:
        write_peft(target, padded, one, resident, {})
        write_tokenizer(target, resident.tokenizer)
        note = f"All maps have rank {one.rank}, filled up with zeros: vLLM needs `--max-lora-rank {one.rank}`."
        _describe(target, run, {**about, "kind": "lora"}, resident, note)

    _write(target, write)
    how = f"vllm serve BASE --enable-lora --max-lora-rank {one.rank} --lora-modules NAME={target}"
    return f"a PEFT directory of rank {one.rank} throughout; serve it with {how}"


def _about(folder: Path) -> Mapping[str, Any]:
    return read_object(folder / _ABOUT, _SHAPE)


def _stored(run: Path, folder: Path, about: Mapping[str, Any], place: str | None) -> tuple[Base, Start, AdapterSpec]:
    """The base of a run with the adapter in a folder of it."""
    config = make_config(read_toml(run / CONFIG))
    if place is not None:
        config = changed_config(config, {"model": {"base": place}})
    return stored_model(run, folder, about, config)


def _describe(target: Path, run: Path, about: Mapping[str, Any], base: Base, note: str) -> None:
    """Put what is known of an adapter beside what was made of it."""
    write_json(target / _ABOUT, dict(about))
    scoring = make_task(make_config(read_toml(run / CONFIG)), base.labels).scoring
    card = model_card(about, read_object(run / SUMMARY), scoring)
    write_whole(target / _CARD, f"{card}\n{note}\n".encode())


def _write(target: Path, write: Callable[[], object]) -> None:
    """Write a folder that is not there yet, and leave nothing of it behind where that fails."""
    if target.exists():
        raise RunFolderError(f"{target} already exists: choose another folder.")
    try:
        write()
    except OSError as error:  # shutil.Error, of several files, is one too
        shutil.rmtree(target, ignore_errors=True)
        reason = error.strerror or "some files could not be copied"
        raise RunFolderError(f"{target} cannot be written: {reason}. Make room, or choose another folder.") from error
    except FedloraError:
        shutil.rmtree(target, ignore_errors=True)
        raise
