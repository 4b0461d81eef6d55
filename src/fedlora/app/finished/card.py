# SPDX-License-Identifier: Apache-2.0
"""The README that lies beside an exported adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlora.core.metrics import Scoring


def model_card(about: Mapping[str, Any], summary: Mapping[str, Any], scoring: Scoring) -> str:
    """What the adapter is, how well it did by each metric, and how to load it, in Markdown.

    Args:
        about: the contents of `fedlora.json`; with `asked`, of a language model.
        summary: of the run.
        scoring: the metrics, the headline first.
    """
    whose = f"the personal model of client {about['client']}" if about["client"] else "the global model"
    head = f", head {summary['head']}" if "head" in summary else ""
    headline = scoring.headline
    lines = [
        f"# {'Model' if about['kind'] == 'dense' else 'LoRA adapter'}, {about['method']}",
        "",
        f"This is {whose} of a federated run with fedlora: {summary['rounds']} rounds over "
        f"{summary['clients']} clients on {summary['data']}, seed {summary['seed']}{head}.",
        "",
        f"- Base: {_base(about['base'])} (weights SHA-256 `{about['base_fingerprint'][:16]}...`)",
        f"- Scale of B A: {about['scale']:g}; largest rank or budget {summary['rank']}",
        f"- Global {headline.name}: {_scores(scoring, summary['global'], headline.name) or 'no global model'}",
        f"- Personal {headline.name}, mean over clients: "
        f"{_scores(scoring, summary['personal'], 'mean') or 'not measured'}",
        f"- Sent by clients: {summary['bytes_up']:,} bytes; to clients: {summary['bytes_down']:,} bytes",
        "",
        *(_for_text(about) if "asked" in about else _for_labels(about)),
    ]
    if summary["data"] == "generated":
        lines.insert(3, "The data of this run are generated; the numbers say nothing about real text.")
    return "\n".join(lines) + "\n"


def _scores(scoring: Scoring, told: Mapping[str, Any] | None, headline: str) -> str:
    """The headline, then the other metrics by name, the latter over all examples together; empty without any."""
    if not told:
        return ""
    others = [f"{m.name} {m.words(told[m.name])}" for m in scoring.metrics[1:] if m.name in told]
    return "; ".join([scoring.headline.words(told[headline]), *others])


def _base(base: str) -> str:
    """Where the base is, in words."""
    if not base:
        return "a model that was handed over in Python"
    return f"the folder `{base}` of the machine that trained it" if Path(base).is_absolute() else f"`{base}`"


def _for_labels(about: Mapping[str, Any]) -> list[str]:
    """How a classifier is loaded."""
    return [
        "```python",
        *(_whole_classifier() if about["kind"] == "dense" else _classifier(about["base"])),
        "```",
        "",
        "The names of the labels, in order, stand in `fedlora.json`; PEFT's own files have no place for them.",
    ]


def _classifier(base: str) -> list[str]:
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


def _whole_classifier() -> list[str]:
    return [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'model = AutoModelForSequenceClassification.from_pretrained("path/to/this/folder")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")',
    ]


def _for_text(about: Mapping[str, Any]) -> list[str]:
    """How a language model is loaded, and asked as it was trained."""
    asked = about["asked"]
    return [
        "```python",
        *(_whole_model() if about["kind"] == "dense" else _adapter(about["base"])),
        *(_question(asked) if asked else ()),
        "```",
        "",
        "The tokenizer with its chat template, if it has one, lies beside it."
        + (" Prompts are written as they were in training, and an answer ends as it was trained to." if asked else ""),
    ]


def _adapter(base: str) -> list[str]:
    return [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "path/to/this/folder"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base or 'path/to/the/base')})",
        "model = PeftModel.from_pretrained(base, folder)",
    ]


def _whole_model() -> list[str]:
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "path/to/this/folder"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
    ]


def _question(asked: Mapping[str, Any]) -> list[str]:
    """A prompt and its answer."""
    if asked["by"] == "chat template":
        prompt = [
            'messages = [{"role": "user", "content": "a prompt"}]',
            'ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)",
        ]
    else:
        end = f" + {json.dumps(asked['separator'])}" if asked["separator"] else ""
        prompt = [f'ids = tokenizer("a prompt"{end}, return_tensors="pt", return_token_type_ids=False)']
    named = f"tokenizer.convert_tokens_to_ids({json.dumps(asked['stops'])})"
    stops = named if asked["stops"] else "tokenizer.eos_token_id"
    return [
        *prompt,
        f"stops = {stops}",
        "answer = model.generate(**ids, max_new_tokens=100, do_sample=False, eos_token_id=stops)",
        'print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
