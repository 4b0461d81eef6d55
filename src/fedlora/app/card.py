# SPDX-License-Identifier: Apache-2.0
"""The README that lies beside an exported adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.core.metrics import Metric


def model_card(about: Mapping[str, Any], summary: Mapping[str, Any], headline: Metric) -> str:
    """What the adapter is, how well it did by the headline metric, and how to load it, in Markdown."""
    whose = f"the personal model of client {about['client']}" if about["client"] else "the global model"
    scores = summary["global"]
    personal = summary["personal"]
    lines = [
        f"# LoRA adapter, {about['method']}",
        "",
        f"This is {whose} of a federated run with fedlora: {summary['rounds']} rounds over "
        f"{summary['clients']} clients on {summary['data']}, seed {summary['seed']}, head {summary['head']}.",
        "",
        f"- Base: {_base(about['base'])} (weights SHA-256 `{about['base_fingerprint'][:16]}...`)",
        f"- Scale of B A: {about['scale']:g}; largest rank or budget {summary['rank']}",
        f"- Global {headline.name}: {headline.words(scores[headline.name]) if scores else 'no global model'}",
        f"- Personal {headline.name}, mean over clients: "
        f"{headline.words(personal['mean']) if personal else 'not measured'}",
        f"- Sent by clients: {summary['bytes_up']:,} bytes; to clients: {summary['bytes_down']:,} bytes",
        "",
        "```python",
        *(_whole_model() if about["kind"] == "dense" else _adapter(about["base"])),
        "```",
        "",
        "The names of the labels, in order, stand in `fedlora.json`; PEFT's own files have no place for them.",
    ]
    if summary["data"] == "generated":
        lines.insert(3, "The data of this run are generated; the numbers say nothing about real text.")
    return "\n".join(lines) + "\n"


def _base(base: str) -> str:
    """Where the base is, in words."""
    if not base:
        return "a model that was handed over in Python"
    return f"the folder `{base}` of the machine that trained it" if Path(base).is_absolute() else f"`{base}`"


def _adapter(base: str) -> list[str]:
    """How an adapter is loaded with its labels' names."""
    return [
        "import json",
        "",
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification",
        "",
        'folder = "path/to/this/folder"',
        'labels = json.load(open(f"{folder}/fedlora.json"))["labels"]',
        "base = AutoModelForSequenceClassification.from_pretrained(",
        f"    {json.dumps(base or 'path/to/the/base')},",
        "    id2label=dict(enumerate(labels)),",
        "    label2id={label: number for number, label in enumerate(labels)},",
        ")",
        "model = PeftModel.from_pretrained(base, folder)",
    ]


def _whole_model() -> list[str]:
    return [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
    ]
