# SPDX-License-Identifier: Apache-2.0
"""Write what is made from the code: references of config and command line, a page per method, tables, pictures.

python docs/generate.py            write
python docs/generate.py --check    say what is out of date, exit 1 if anything is
"""

import inspect
import json
import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

import results
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from results import WHEN, measured, svg

from fedlora.app.config import Config
from fedlora.app.describe import describe, fields_of, sections
from fedlora.app.sections import keys
from fedlora.app.sections import sections as config_sections
from fedlora.deploy.config import SiteConfig
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.stages import STAGES
from fedlora.laws.world import World, play
from fedlora.methods import BUILT_IN
from fedlora.report.tables import size

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PATHS = """
Relative paths in a file are seen from the file's folder, those of `--set` and of Python from the working directory; a
run folder's `config.toml` has them absolute. A base or a dataset that is no path there, and does not begin like one
(`./`, `../`, `~`, `/`), is a name on the hub.
"""
MADE = "<!-- made by docs/generate.py; do not edit -->\n"


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
    traffic = measured("traffic")["bytes of one client and round"].get(name)
    if traffic is not None:
        told = [f"{size(traffic[when][way])} {way} {words}" for when, words in WHEN.items() for way in ("up", "down")]
        lines += [
            f"**In numbers.** One layer of RoBERTa-base (six maps) at rank 8, ten clients, float32, of one client and "
            f"round: {', '.join(told)} ([benchmarks/traffic.py](../../benchmarks/traffic.py)).",
            "",
        ]
    hints = get_type_hints(BUILT_IN[name])
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
    """All methods in one table, and what was measured of them in another."""
    lines = [MADE, "# The methods", "", methods_table()]
    lines += ["*Exact: update* means that the change of the global model is the weighted mean of the clients' changes;"]
    lines += ["*before truncation*, that the weighted mean of products is formed and then cut to the best of its rank."]
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
        results.measures_table(),
    ]
    lines += [
        "",
        "Stages stand between a method and what travels (`[[stage]]`, see the [config reference](config.md)):",
    ]
    lines += ["FedProx, clipping of updates, FedAvgM and FedAdam at the server, and your own."]
    return "\n".join(lines) + "\n"


def with_tables(page, tables):
    """A written page with what stands between the marks of each table made anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in tables.items():
        head, rest = text.split(f"<!-- {name} -->\n")
        _, tail = rest.split(f"<!-- /{name} -->")
        text = f"{head}<!-- {name} -->\n{make()}\n<!-- /{name} -->{tail}"
    return text


def privacy_table():
    """What leaves a site under each method: what the server expects, what the notes of a played round say."""
    lines = [
        "| method | goes up in odd rounds | in even rounds | notes | stays | others can read |",
        "|---|---|---|---|---|---|",
    ]
    for name, kind in BUILT_IN.items():
        method = kind()
        adapter = "lora" if "lora" in method.facts.kinds else "dense"
        if method.facts.centralized:
            lines.append(
                f"| [`{name}`](methods/{name}.md) | every text: all data are in one place | - | - | nothing | - |"
            )
            continue
        nobody, shapes = frozenset(), ((5, 7), (6, 4))
        world = World(shapes, (2, 2), (5, 4), 2, nobody, nobody, 1.0, "frozen", "float32", 0, adapter)
        run = play(Pipeline(method), world)
        up = [sent_words(method, run.exchange(round, "c0")[0].schema.expected, adapter) for round in (1, 2)]
        notes = {key: None for reply in run.transport.replies.values() for key in reply.notes}
        told = ", ".join(f"`{key}`" for key in notes) or "-"
        stays = " and ".join(LETTERS[side] for side in sorted(method.facts.private_sides)) or "-"
        merged = "steps" in run.servers[-1].state.extra
        read = "every client's factors" if merged else "the aggregate" if any(own != "-" for own in up) else "-"
        lines.append(f"| [`{name}`](methods/{name}.md) | {up[0]} | {up[1]} | {told} | {stays} | {read} |")
    return "\n".join(lines)


LETTERS = {"input": "A", "output": "B"}


def sent_words(method, expected, adapter):
    """What a method expects in one round, in words."""
    what = "change" if method.facts.sends == "changes" else "values"
    words = [f"chosen slots of {LETTERS[side]} ({what}), and their numbers" for side in expected.chosen]
    sides = [side for side, shapes in expected.wholes[0].items() if shapes]
    if sides and adapter == "dense":
        words.append("the change of every parameter")
    elif sides:
        fewer = " at its own rank" if len(expected.wholes) > 1 else ""
        words.append(f"{' and '.join(LETTERS[side] for side in sides)}{fewer} ({what})")
    return "; ".join(words) or "-"


def concepts_picture():
    """One round, with the only seam in the middle."""
    figure = Figure(figsize=(8.6, 3.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 86)
    axes.set_ylim(0, 35)
    axes.axis("off")

    def box(place, size, text, colour):
        (x, y), (width, height) = place, size
        shape = FancyBboxPatch(place, width, height, boxstyle="round,pad=0.3,rounding_size=1", fc=colour, ec="#58626b")
        axes.add_patch(shape)
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, text, above):
        shape = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="#58626b")
        axes.add_patch(shape)
        place = ((start[0] + end[0]) / 2, start[1] + (0.8 if above else -0.8))
        axes.text(*place, text, ha="center", va="bottom" if above else "top", fontsize=8, color="#333a40")

    axes.text(14, 32.5, "server: federate()", ha="center", fontsize=10, weight="bold")
    axes.text(40, 32.5, "transport", ha="center", fontsize=10, weight="bold")
    axes.text(65, 32.5, "client: serve()", ha="center", fontsize=10, weight="bold")
    box((2, 23), (24, 6), "method.dispatch(state, client)", "#dcebf5")
    box((2, 13), (24, 6), "state: adapter, versions, ...", "#f3f4f5")
    box((2, 3), (24, 6), "method.aggregate(state, updates)", "#dcebf5")
    box((54, 23), (22, 6), "method.receive(payload)", "#fbeed3")
    box((54, 13), (22, 6), "trainer.fit(...)", "#e0f0e6")
    box((54, 3), (22, 6), "method.upload(trained)", "#fbeed3")
    box((80, 3), (4, 26), "", "#f3f4f5")
    axes.text(82, 16, "memory", ha="center", va="center", rotation=90, fontsize=9)
    axes.plot([40, 40], [1, 31], linestyle=":", color="#58626b", linewidth=1.2)
    arrow((26.6, 26), (53.4, 26), "order: a payload down, bytes counted", True)
    arrow((53.4, 6), (26.6, 6), "reply: a payload up, bytes counted", False)
    ups = (((14, 9.5), (14, 12.5)), ((14, 19.5), (14, 22.5)))
    downs = (((65, 22.5), (65, 19.5)), ((65, 12.5), (65, 9.5)))
    kept = (((79.5, 26), (76.5, 26)), ((76.5, 6), (79.5, 6)))
    for start, end in (*ups, *downs, *kept):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="#58626b"))
    return svg(figure)


def everything():
    """Path -> contents of all that is made."""
    pages = {
        DOCS / "config.md": config_page(),
        DOCS / "cli.md": cli_page(),
        DOCS / "methods.md": methods_page(),
        DOCS / "pictures" / "concepts.svg": concepts_picture(),
        DOCS / "pictures" / "banking77.svg": results.study_picture(),
        DOCS / "pictures" / "cost.svg": results.cost_picture(),
        **{DOCS / f"{name}.md": with_tables(DOCS / f"{name}.md", tables) for name, tables in results.TABLES.items()},
        DOCS / "privacy.md": with_tables(DOCS / "privacy.md", {"methods": privacy_table, "fuzz": results.fuzz_words}),
        ROOT / "README.md": with_tables(ROOT / "README.md", {"methods": lambda: methods_table("docs/")}),
    }
    return pages | {DOCS / "methods" / f"{name}.md": method_page(name) for name in BUILT_IN}


def main(check):
    """Write what is out of date, or say it."""
    stale = []
    for path, text in everything().items():
        drawn = check and path.suffix == ".svg"  # what a picture's file says depends on matplotlib's version
        if not path.exists() or (not drawn and path.read_text(encoding="utf-8") != text):
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
