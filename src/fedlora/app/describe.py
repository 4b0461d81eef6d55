# SPDX-License-Identifier: Apache-2.0
"""Methods and verdicts in words: what `fedlora methods` and `fedlora check` print."""

import dataclasses
import inspect
import re
from collections.abc import Collection
from typing import Any, get_type_hints

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from fedlora.core.settings import sentences
from fedlora.errors import ConfigError
from fedlora.federation.stages.base import Stage
from fedlora.methods import BUILT_IN
from fedlora.methods.base import Method


def describe(kind: type[Method]) -> dict[str, Any]:
    """The facts of a method with its defaults, the sections of its docstring and its fields."""
    doc, facts = inspect.getdoc(kind) or "", kind().facts
    return {
        "name": kind.name,
        "summary": doc.splitlines()[0] if doc else "",
        "mixed_ranks": facts.mixed_ranks,
        "exact": facts.exact,
        "private_sides": sorted(facts.private_sides),
        "newcomer": facts.newcomer,
        "kinds": sorted(facts.kinds),
        "consumes": facts.consumes,
        "centralized": facts.centralized,
        "lr_b_ratio": facts.lr_b_ratio,
        "fields": fields_of(kind),
        "doc": doc,
    }


def fields_of(kind: type[Method] | type[Stage]) -> dict[str, dict[str, Any]]:
    """A method's or stage's fields: type, default and meaning."""
    docs, types = sentences(kind), get_type_hints(kind)
    return {
        field.name: {"type": str(types[field.name]), "default": field.default, "doc": docs.get(field.name, "")}
        for field in dataclasses.fields(kind)
    }


_SECTIONS = ("Idea", "Formula", "What travels", "Mixed ranks", "Exact", "Departures", "Reference")


def sections(doc: str) -> dict[str, str]:
    """The parts of a method's docstring: its summary, and what stands under each heading, as one line each."""
    told: dict[str, list[str]] = {"summary": []}
    heading = "summary"
    for line in doc.splitlines():
        name = next((section for section in _SECTIONS if re.match(rf"{section}[\w ]*:", line)), None)
        if name is not None:
            heading = name
        text = line.partition(":")[2] if name is not None else line
        told.setdefault(heading, []).append(text.strip())
    return {name: " ".join(word for word in lines if word) for name, lines in told.items()}


def describe_all() -> list[dict[str, Any]]:
    """Every built-in method."""
    return [describe(kind) for kind in BUILT_IN.values()]


def print_methods() -> None:
    """Every method in a few lines."""
    console = Console(highlight=False)
    for entry in describe_all():
        private = " and ".join(entry["private_sides"])
        facts = [
            "mixed ranks" if entry["mixed_ranks"] else "one rank",
            {"none": "no global model"}.get(entry["exact"], f"exact: {entry['exact']}"),
            *([f"stays with the client: {private} side", f"a newcomer gets {entry['newcomer']}"] if private else []),
        ]
        console.print(f"[bold]{entry['name']:10}[/] {'; '.join(facts)}")
        console.print(Padding(entry["summary"], (0, 0, 0, 11)))
        for name, field in entry["fields"].items():
            text = f"{name} = {field['default']!r}: {field['doc']}"
            console.print(Padding(escape(text), (0, 0, 0, 13)))


def print_verdicts(subject: Method | Stage, fixed: Collection[str], examples: int) -> bool:
    """Check a method or a stage law by law and print what became of each; whether all held.

    Args:
        subject: the method or stage.
        fixed: its fields that keep their value.
        examples: worlds for each law.
    """
    try:
        from fedlora.laws.check import check_method, check_stage, unused_fields
    except ModuleNotFoundError as error:
        raise ConfigError("The law book needs Hypothesis: pip install 'fedlora[check]'.") from error

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{subject.name}  ({examples} worlds a law)")
    held = True
    if isinstance(subject, Method):
        place, verdicts = "method", check_method(subject, examples, fixed)
    else:
        place, verdicts = f"stage {subject.name}", check_stage(subject, examples, fixed)
    for verdict in verdicts:
        word, colour = {True: ("held", "green"), False: ("broken", "red"), None: ("-", "dim")}[verdict.held]
        console.print(f"  {verdict.law:18}[{colour}]{word:8}[/]{verdict.statement}")
        if verdict.held is False:
            console.print(f"      {verdict.example}", markup=False)
            held = False
    for field in unused_fields(subject, examples, fixed):
        console.print(f"  warning: {place}.{field} changes nothing in {examples} drawn worlds.", markup=False)
    return held
