# SPDX-License-Identifier: Apache-2.0
"""What a run was started with besides its config, by content: going on with other inputs would be another run."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedlora.app.config.schema import Config
from fedlora.federation.same_run import ENVIRONMENT, SPLIT
from fedlora.training.bases.model import Base
from fedlora.training.bases.peft_files import CONFIG, WEIGHTS

_PACKAGES = ("fedlora", "torch", "transformers", "peft", "datasets", "safetensors", "numpy")


def inputs(config: Config, base: Base, digests: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """What `require_same_inputs` compares, and the versions of the other packages, which are for the record.

    Args:
        config: of the run; it names the adapter that the run starts from.
        base: of the run.
        digests: of its examples, see `example_digests`.

    Returns:
        File of the run folder -> some of its keys.
    """
    start = config.adapter.start
    return {
        ENVIRONMENT: {
            "packages": {name: _version(name) for name in _PACKAGES},
            "base": base.name,
            "base_fingerprint": base.fingerprint,
            "head_fingerprint": base.head_fingerprint,
            "tokenizer_fingerprint": base.tokenizer_fingerprint,
            "start_fingerprint": _of_adapter(Path(start)) if start is not None else None,
        },
        SPLIT: {"labels": list(base.labels), "digests": dict(digests)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _of_adapter(folder: Path) -> str:
    """SHA-256 of what a PEFT directory holds; whether that is an adapter at all is seen where it is read."""
    digest = hashlib.sha256()
    for path in (folder / CONFIG, folder / WEIGHTS):
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    return digest.hexdigest()
