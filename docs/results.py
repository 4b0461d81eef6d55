"""Tables and pictures of what the benchmarks measured."""

import io
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from fedlora.report.svg import PALETTE
from fedlora.report.tables import size

ROOT = Path(__file__).parents[1]
WHEN = {"first": "at first contact", "steady": "from then on"}


def measured(name):
    """A benchmark's results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def measures_table():
    """What the benchmarks found of each method: how exact, how many bytes."""
    exactness, traffic = measured("exactness")["methods"], measured("traffic")["bytes of one client and round"]
    lines = [
        "| method | ranks | off the mean update | off the mean product | up, first | down, first | up | down |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, own in exactness.items():
        errors = [f"{own['errors'][key]:.2g}" if own["errors"] else "-" for key in ("update", "product")]
        sent = [size(traffic[name][when][way]) for when in WHEN for way in ("up", "down")]
        lines.append(f"| `{name}` | {own['ranks']} | {' | '.join(errors)} | {' | '.join(sent)} |")
    return "\n".join(lines)


def study_table():
    """Every run of the study."""
    lines = [
        "| ranks | method | rate | global | personal | worst tenth | up | down |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for ranks, runs in measured("study").items():
        for name, own in runs.items():
            told = own["summary"]
            whole = f"{100 * told['global']['accuracy']:.1f}" if told["global"] else "-"
            scores = [f"{100 * told['personal'][key]:.1f}" for key in ("mean", "worst_tenth")]
            sent = [size(told[key]) for key in ("bytes_up", "bytes_down")]
            lines.append(f"| {ranks} | `{name}` | {own['lr']:g} | {' | '.join([whole, *scores, *sent])} |")
    return "\n".join(lines)


def study_picture():
    """Accuracy by bytes sent of the study's methods at rank 2, global on the left, personal on the right."""
    study = measured("study")
    results = {**study["2"], **study["mixed, mean 2"]}
    sending = [name for name, own in results.items() if own["summary"]["bytes_up"]]
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, own in results.items():
        for axes, part, key in ((left, "global", "accuracy"), (right, "personal", "mean")):
            sent, points = 0, []
            for line in own["curve"]:
                sent += line["bytes_up"]
                if line[part]:
                    points.append((sent, 100 * line[part][key]))
            colour = PALETTE[sending.index(name) % len(PALETTE)] if name in sending else None
            if not points:
                continue
            if own["summary"]["bytes_up"]:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, color=colour)
            else:
                axes.axhline(points[-1][1], linestyle=":", color="#58626b", linewidth=1)
                axes.annotate(
                    name, (0.02, points[-1][1]), (0, 3), ("axes fraction", "data"), "offset points", fontsize=8
                )
    for axes, title in ((left, "global model"), (right, "clients' own models, mean")):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_ylim(0, 85)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("sent by all clients", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    left.set_ylabel("accuracy, %", fontsize=9)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    return svg(figure)


def percent(score, key):
    """A score as it stands in a table."""
    return f"{100 * score[key]:.1f}" if score else "-"


def grid_table(skew):
    """All methods at one strength of skew."""
    own = measured("grid")[skew]
    lines = [
        "| method | rate | global | personal | worst tenth | up | round within | global then | personal then |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in own["runs"].items():
        told, common = run["summary"], run["at_common"]
        scores = [percent(told["global"], "accuracy"), percent(told["personal"], "mean")]
        scores += [percent(told["personal"], "worst_tenth"), size(told["bytes_up"])]
        scores += [str(common["round"]) if common else "-"]
        scores += [percent(common and common["global"], "accuracy"), percent(common and common["personal"], "mean")]
        lines.append(f"| `{name}` | {run['lr']:g} | {' | '.join(scores)} |")
    return "\n".join([*lines, "", f"Common upload: {size(own['common_bytes_up'])}."])


def concepts_table():
    """FedSA's forms, FedIT and local under two forms of heterogeneity."""
    found = measured("concepts")
    lines = ["| | " + " | ".join(f"{form}: mean | worst tenth" for form in found) + " |"]
    lines += ["|---|" + "---|---|" * len(found)]
    for name in next(iter(found.values())):
        cells = [percent(own[name]["personal"], key) for own in found.values() for key in ("mean", "worst_tenth")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def profiles_table():
    """Three methods under three profiles of budgets."""
    found = measured("profiles")
    lines = ["| method | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for name in next(iter(found.values())):
        cells = [f"{percent(own[name]['global'], 'accuracy')} ({own[name]['lr']:g})" for own in found.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def trainers_table():
    """Every way of every shape."""
    found = measured("trainers")
    lines = ["| | way | examples/s | times Flower | times PEFT loop | share of the matrix rate | peak memory | loss |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, own in found.items():
        if name == "machine":
            continue
        for way, told in own["ways"].items():
            flower = f"{told['times_flower']:.2f}" if "times_flower" in told else "-"
            cells = [f"{told['examples_per_second']:.0f}", flower, f"{told['times_peft']:.2f}"]
            cells += [f"{100 * told['share_of_matrix_rate']:.0f} %", f"{told['peak_mb']} MB", f"{told['loss']:.4f}"]
            lines.append(f"| {name} | {way} | {' | '.join(cells)} |")
    rates = {name: own["matrix_gflops"] for name, own in found.items() if name != "machine"}
    told = "; ".join(f"{name} {before:.0f} before, {after:.0f} after" for name, (before, after) in rates.items())
    return "\n".join([*lines, "", f"Matrix rate in GFLOP/s: {told}."])


def kernels_table():
    """Where the time of one thread goes."""
    found = {name: own["kernels"] for name, own in measured("trainers").items() if name != "machine"}
    lines = ["| share of the time | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    kinds = next(iter(found.values()))
    rows = {kind: " | ".join(f"{100 * own[kind]:.0f} %" for own in found.values()) for kind in kinds}
    return "\n".join([*lines, *(f"| {kind} | {shares} |" for kind, shares in rows.items())])


def memory_table():
    """Peak memory by clients, and resident memory over rounds."""
    found = measured("memory")
    lines = [
        "| method | 100 clients | 10,000 clients | ratio | after 50 rounds | after 500 rounds |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in found["clients"].items():
        rounds = found["rounds"][name]["resident_mb"]
        cells = [f"{own['100']:.0f} MB", f"{own['10000']:.0f} MB", f"{own['ratio']:.2f}"]
        cells += [f"{rounds['50']:.0f} MB", f"{rounds['500']:.0f} MB"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cost_picture():
    """How the cost grows, four ways."""
    curves = measured("curves")["curves"]
    figure = Figure(figsize=(8.6, 2.5), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, 4), curves.items(), strict=True):
        x, y = [int(own) for own in points], [1000 * own for own in points.values()]
        axes.plot(x, y, marker="o", markersize=3, color=PALETTE[0])
        axes.set_xscale("log", base=10 if name == "clients" else 2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(0, 1.15 * max(y))
        axes.set_xlabel({"length": "tokens a text"}.get(name, name), fontsize=9)
        axes.set_title("ms a client" if name == "clients" else "ms an example", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return svg(figure)


def fuzz_words():
    """What became of the mutants."""
    own = measured("door_fuzz")
    return (
        f"{own['mutants']:,} tried (seed {own['seed']}), {own['accepted']:,} let in and shown to be harmless, "
        f"{own['accepted that should not be']} let in that should not be, {own['crashes']} crashes, "
        f"{own['of it while fuzzing, MiB']:.0f} MiB of memory more than before "
        f"([mutants.py](../tests/federation/mutants.py))."
    )


def svg(figure):
    """The same bytes for the same figure."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "fedlora", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.patch.set_facecolor("white")
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
