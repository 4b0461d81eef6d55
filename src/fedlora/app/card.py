# SPDX-License-Identifier: Apache-2.0
"""The README that lies beside an exported adapter."""

from collections.abc import Mapping
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
        f"- Base: `{about['base']}` (weights SHA-256 `{about['base_fingerprint'][:16]}...`)",
        f"- Scale of B A: {about['scale']:g}; largest rank or budget {summary['rank']}",
        f"- Global {headline.name}: {headline.words(scores[headline.name]) if scores else 'no global model'}",
        f"- Personal {headline.name}, mean over clients: "
        f"{headline.words(personal['mean']) if personal else 'not measured'}",
        f"- Sent by clients: {summary['bytes_up']:,} bytes; to clients: {summary['bytes_down']:,} bytes",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForSequenceClassification",
        "",
        f'base = AutoModelForSequenceClassification.from_pretrained("{about["base"]}", num_labels={summary["labels"]})',
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
        "```",
        "",
        "The names of the labels, in order, stand in `fedlora.json`.",
    ]
    if summary["data"] == "generated":
        lines.insert(3, "The data of this run are generated; the numbers say nothing about real text.")
    return "\n".join(lines) + "\n"
