# SPDX-License-Identifier: Apache-2.0
"""The methods, one file each. A new one is added to `BUILT_IN`, or named as `file.py:Class`."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from fedlora.errors import MethodError, nearest
from fedlora.methods.base import Method
from fedlora.methods.fair import FAIR
from fedlora.methods.fedex import FedEx
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.fedsvd import FedSVD
from fedlora.methods.ffa import FFA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.flora import FLoRA
from fedlora.methods.florist import FLoRIST
from fedlora.methods.full import Full
from fedlora.methods.hetlora import HetLoRA
from fedlora.methods.local import Central, Local
from fedlora.methods.lora_a2 import LoRAA2
from fedlora.methods.replicate import Replicate
from fedlora.methods.rolora import RoLoRA
from fedlora.methods.zeropad import ZeroPad

_CLASSES: tuple[type[Method], ...] = (
    LoRAA2,
    FedSA,
    Replicate,
    FedIT,
    ZeroPad,
    FFA,
    RoLoRA,
    FlexLoRA,
    HetLoRA,
    FLoRA,
    FedEx,
    FLoRIST,
    FedSVD,
    FAIR,
    Full,
    Local,
    Central,
)
BUILT_IN: Mapping[str, type[Method]] = {method.name: method for method in _CLASSES}
"""Every method that comes with fedlora, by name."""


def find_method(name: str) -> type[Method]:
    """The class of a method: a built-in name, or `path/to/file.py:Class`.

    Raises:
        MethodError: there is no such method, file or class.
    """
    if ":" not in name:
        if name not in BUILT_IN:
            raise MethodError(f"There is no method {name!r}: {nearest(name, BUILT_IN)}")
        return BUILT_IN[name]
    file, _, class_name = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise MethodError(f"Method {name!r}: there is no file {file!r}; expected path/to/file.py:Class.")
    found = vars(_load(path)).get(class_name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise MethodError(f"Method {name!r}: {file} has no class {class_name!r} that is a fedlora Method.")
    return found


def _load(path: Path) -> object:
    module_name = f"fedlora_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise MethodError(f"Method file {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MethodError(f"Method file {path} does not load: {type(error).__name__}: {error}") from error
    return module
