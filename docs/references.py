"""References of config and command line, and the pages of the methods, from their declarations."""

import inspect
import json
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import choosing
import results
from blocks import block
from fedlora.app.config.schema import Config
from fedlora.app.config.sections import keys
from fedlora.app.config.sections import sections as config_sections
from fedlora.app.describe import describe, fields_of, sections
from fedlora.deploy.config import SiteConfig
from fedlora.federation.stages import STAGES
from fedlora.methods import BUILT_IN
from fedlora.report.tables import size
from results import WHEN, measured

PATHS = """
Relative paths in a file are seen from the file's folder, those of `--set` and of Python from the working directory; a
run folder's `config.toml` has them absolute. A base or a dataset that is no path there, and does not begin like one
(`./`, `../`, `~`, `/`), is a name on the hub.
"""
MADE = "<!-- made by docs/generate.py; do not edit -->\n"
BYTES = (
    "Bytes of one client and round once it is known, one layer of RoBERTa-base at rank 8, encoded payloads without heads "
    "([traffic.py](../benchmarks/traffic.py)); `full` sends every parameter of that layer. What others than the server "
    "can read stands on [its page](privacy.md)."
)


def config_page():
    """Every key of the config with its type, default and meaning."""
    lines = [MADE, "# Config reference", "", "A TOML file of these sections; every key has a default that works."]
    lines += ["`--set section.key=value` changes one on the command line.", "", inspect.cleandoc(PATHS), ""]
    for name, (section, repeated) in config_sections(Config).items():
        heading = f"[[{name}]]" if repeated else f"[{name}]"
        lines += [f"## {heading}", "", (section.__doc__ or "").splitlines()[0], ""]
        lines += ["| key | type | default | |", "|---|---|---|---|", *key_lines(section)]
        if name == "method":
            lines += ["", "and the method's own fields: see [the methods](methods.md)."]
        if name == "stage":
            lines += ["", "and the stage's fields:", "", "| stage | field | default | |", "|---|---|---|---|"]
            for stage, kind in STAGES.items():
                for key, told in fields_of(kind).items():
                    lines.append(f"| `{stage}` | `{key}` | `{told['default']!r}` | {told['doc']} |")
        lines.append("")
    return "\n".join([*lines, *site_lines()])


def site_lines():
    """Every key of a site's own file."""
    yield "# A site's own file"
    yield "\nWhat `fedlora site` is given in a [deployment](deploy.md). Paths are seen from its folder.\n"
    for name, (section, _) in config_sections(SiteConfig).items():
        yield f"## [{name}] of a site\n\n{section.__doc__}\n\n| key | type | default | |\n|---|---|---|---|"
        yield from [*key_lines(section), ""]


def key_lines(section):
    """A row for each key of a section."""
    for key in keys(section):
        default = "-" if key.default is None else f"`{json.dumps(key.default)}`"  # as TOML writes it
        yield f"| `{key.name}` | {type_words(key.type)} | {default} | {key.text} |"


def type_words(annotation):
    """A type in words, with its range: `whole number, at least 1`, `a or b`, `list of text`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([type_words(inner[0]), *map(str, inner[1:])])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(type_words(own) for own in inner if own is not type(None))
    if origin is list:
        return f"list of {type_words(inner[0])}"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def cli_page():
    """Every command with its arguments and options, from their declarations."""
    from typer.main import get_command

    from fedlora.cli import app

    lines = [MADE, "# Command-line reference", ""]
    lines += ["Exit code 0: done; 2: the input was wrong, with one sentence on stderr; 1: anything else.", ""]
    for name, command in get_command(app).commands.items():
        told = get_type_hints(command.callback, include_extras=True)  # libraries differ in whether they keep help
        given = [param for param in command.params if param.param_type_name == "argument"]
        usage = [param.name.upper() + ("..." if param.nargs == -1 else "") for param in given]
        usage = [word if param.required else f"[{word}]" for word, param in zip(usage, given, strict=True)]
        lines += [f"## fedlora {' '.join([name, *usage])}", "", inspect.cleandoc(command.help or ""), ""]
        if command.params:
            lines += ["| | |", "|---|---|"]
        for param in command.params:
            flag = param.name.upper() if param in given else param.opts[-1]
            metavar = "" if param in given or param.is_flag else f" {param.metavar or param.name.upper()}"
            silent = param.required or param.default in (None, "", False) or callable(param.default)
            default = "" if silent else f" Default: {param.default}."
            lines.append(f"| `{flag}{metavar}` | {told[param.name].__metadata__[0].help}{default} |")
        lines.append("")
    return "\n".join(lines)


def method_page(name):
    """One method from its docstring and facts."""
    own = describe(BUILT_IN[name])
    told = sections(own["doc"])
    lines = [MADE, f"# {name}", "", told.pop("summary"), ""]
    for heading, text in told.items():
        lines += [f"**{heading}.** {text[:1].upper()}{text[1:]}", ""]
    lines += [f"**A newcomer.** A client that never trained (`split.unseen`) is scored with {own['newcomer']}.", ""]
    traffic = measured("traffic")["bytes of one client and round"].get(name)
    if traffic is not None:
        told = [f"{size(traffic[when][way])} {way} {words}" for when, words in WHEN.items() for way in ("up", "down")]
        numbers = (
            f"**In numbers.** One layer of RoBERTa-base (six maps) at rank 8, ten clients, float32, of one client and "
            f"round: {', '.join(told)} ([benchmarks/traffic.py](../../benchmarks/traffic.py))."
        )
        lines += [block("numbers", numbers), ""]
    hints = get_type_hints(BUILT_IN[name], include_extras=True)
    if own["fields"]:
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        for key, field in own["fields"].items():
            lines.append(f"| `method.{key}` | {type_words(hints[key])} | `{field['default']!r}` | {field['doc']} |")
        lines.append("")
    return "\n".join(lines)


def methods_table(link=""):
    """The table of methods from their facts."""
    lines = ["| method | clients' ranks | exact | stays with the client | what travels |", "|---|---|---|---|---|"]
    for name, kind in BUILT_IN.items():
        told, facts = sections(describe(kind)["doc"]), kind().facts
        ranks = "different" if facts.mixed_ranks else "one for all"
        exact = {"none": "no global model"}.get(facts.exact, facts.exact)
        private = " and ".join({"input": "A", "output": "B"}[side] for side in sorted(facts.private_sides)) or "-"
        travels = told["What travels"].rstrip(".")
        lines.append(f"| [`{name}`]({link}methods/{name}.md) | {ranks} | {exact} | {private} | {travels} |")
    return "\n".join(lines)


def methods_page():
    """All methods in one table, what works with what, which for whom, and what was measured of them."""
    lines = [MADE, "# The methods", "", methods_table(), ""]
    lines += ["*Exact: update* means that the change of the global model is the weighted mean of the clients' changes;"]
    lines += ["*before truncation*, that the weighted mean of products is formed and then cut to the best of its rank."]
    lines += ["", "## What works with what", "", choosing.support_table()]
    lines += [
        "",
        "## Which method when, by facts",
        "",
        "None of this needs a study; what does is [accuracy](study.md).",
    ]
    lines += ["", choosing.questions(), "", block("facts", choosing.choice_table()), "", BYTES]
    lines += ["", "## Measured", ""]
    lines += [
        "Relative errors of the aggregate over five rounds of ten clients on maps that are not square, with ranks"
    ]
    lines += [
        "1 to 8 where the method mixes them, absences and a lost reply included: of the change of the global model"
    ]
    lines += ["against the mean of the clients' changes, and of the model against the mean of the clients' models"]
    lines += ["([exactness.py](../benchmarks/exactness.py)). And bytes of one client and round at rank 8, one layer of"]
    lines += [
        "RoBERTa-base, encoded payloads without heads ([traffic.py](../benchmarks/traffic.py)).",
        "",
        block("measured", results.measures_table()),
    ]
    lines += [
        "",
        "Stages stand between a method and what travels (`[[stage]]`, see the [config reference](config.md)):",
    ]
    lines += ["FedProx, clipping of updates, FedAvgM and FedAdam at the server, and your own."]
    return "\n".join(lines) + "\n"
