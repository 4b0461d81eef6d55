# SPDX-License-Identifier: Apache-2.0
"""The methods, one file each. A new one is added to `BUILT_IN`, or named as `file.py:Class`."""

from collections.abc import Mapping
from dataclasses import fields

from fedlora.errors import MethodError, nearest
from fedlora.methods.base import Method
from fedlora.methods.base_alone import BaseAlone
from fedlora.methods.facts import Facts
from fedlora.methods.fair import FAIR
from fedlora.methods.fedex import FedEx
from fedlora.methods.fedit import FedIT
from fedlora.methods.fedsa import FedSA
from fedlora.methods.fedsvd import FedSVD
from fedlora.methods.ffa import FFA
from fedlora.methods.files import class_in_file, require_whole
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
    BaseAlone,
)
BUILT_IN: Mapping[str, type[Method]] = {method.name: method for method in _CLASSES}
"""Every method that comes with fedlora, by name."""


def with_facts(kind: type[Method]) -> type[Method]:
    """The class, unless it states a fact where nobody reads it, or lacks what a method has.

    Raises:
        MethodError: a fact is a class variable; or there is no name, or no `advance`.
    """
    for field in fields(Facts):
        if field.name in vars(kind):
            raise MethodError(
                f"Method {kind.__name__}: {field.name} is a class variable: return it from `facts`, as in "
                f"`return Facts({field.name}=...)`."
            )
    return require_whole(kind, "Method")


def find_method(name: str) -> type[Method]:
    """The class of a method: a built-in name, or `path/to/file.py:Class`.

    Raises:
        MethodError: there is no such method, file or class.
    """
    if ":" in name:
        return with_facts(class_in_file(name, Method, "Method"))  # type: ignore[type-abstract]
    if name not in BUILT_IN:
        raise MethodError(f"There is no method {name!r}: {nearest(name, BUILT_IN)}")
    return BUILT_IN[name]
