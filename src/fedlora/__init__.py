# SPDX-License-Identifier: Apache-2.0
"""Federated fine-tuning of language models with low-rank adapters.

The public names, one by one. They are resolved on first use: `import fedlora` itself loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlora.app.compare.comparison import Comparison as Comparison
    from fedlora.app.compare.comparison import compare as compare
    from fedlora.app.config.keys import Keys as Keys
    from fedlora.app.config.schema import Config as Config
    from fedlora.app.config.schema import make_config as make_config
    from fedlora.app.config.schema import read_config as read_config
    from fedlora.app.finished.loaded import LoadedRun as LoadedRun
    from fedlora.app.finished.loaded import load_run as load_run
    from fedlora.app.run.run import Run as Run
    from fedlora.app.run.run import run as run
    from fedlora.app.study.studying import StudyResults as StudyResults
    from fedlora.app.study.studying import study as study
    from fedlora.app.tune.tuning import Tuned as Tuned
    from fedlora.app.tune.tuning import tune as tune
    from fedlora.core.adapter import Adapter as Adapter
    from fedlora.core.adapter import AdapterSpec as AdapterSpec
    from fedlora.core.lowrank import LowRank as LowRank
    from fedlora.errors import FedloraError as FedloraError
    from fedlora.errors import UserError as UserError
    from fedlora.federation.record import RoundRecord as RoundRecord
    from fedlora.methods import BUILT_IN as BUILT_IN
    from fedlora.methods import find_method as find_method
    from fedlora.methods.base import Method as Method
    from fedlora.training.data.examples import Dataset as Dataset
    from fedlora.training.data.labelled import from_lists as from_lists

_HOMES = {
    "BUILT_IN": "fedlora.methods",
    "Adapter": "fedlora.core.adapter",
    "AdapterSpec": "fedlora.core.adapter",
    "Comparison": "fedlora.app.compare.comparison",
    "Config": "fedlora.app.config.schema",
    "Dataset": "fedlora.training.data.examples",
    "FedloraError": "fedlora.errors",
    "Keys": "fedlora.app.config.keys",
    "LoadedRun": "fedlora.app.finished.loaded",
    "LowRank": "fedlora.core.lowrank",
    "Method": "fedlora.methods.base",
    "RoundRecord": "fedlora.federation.record",
    "Run": "fedlora.app.run.run",
    "StudyResults": "fedlora.app.study.studying",
    "Tuned": "fedlora.app.tune.tuning",
    "UserError": "fedlora.errors",
    "compare": "fedlora.app.compare.comparison",
    "find_method": "fedlora.methods",
    "from_lists": "fedlora.training.data.labelled",
    "load_run": "fedlora.app.finished.loaded",
    "make_config": "fedlora.app.config.schema",
    "read_config": "fedlora.app.config.schema",
    "run": "fedlora.app.run.run",
    "study": "fedlora.app.study.studying",
    "tune": "fedlora.app.tune.tuning",
}

__version__ = "0.1.0.dev0"
__all__ = ["__version__", *_HOMES]  # noqa: PLE0604  the keys are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedlora' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
