"""What the pages say of speed, memory and lost updates."""

from blocks import claim
from results import measured


def trainers_words():
    """What the table of trainers and the kernels' shares come to."""
    found = measured("trainers")
    best = {shape: found[shape]["ways"]["workers"] for shape in ("qv", "six", "lora-a2")}
    loop, kernels = found["qv"]["ways"]["peft"], found["qv"]["kernels"]
    share, factor = loop["share_of_matrix_rate"], 3
    kinds = ("attention", "layer norm", "GELU", "copies and concatenation")
    other = sum(kernels[kind] for kind in kinds)
    return claim(
        factor * share > 0.85 and best["qv"]["share_of_matrix_rate"] > 0.6,
        f"So {best['qv']['times_flower']:.2f} times Flower and {best['qv']['times_peft']:.2f} times the PEFT loop for query "
        f"and value, {best['six']['times_flower']:.2f} and {best['six']['times_peft']:.2f} for all six maps, "
        f"{best['lora-a2']['times_peft']:.2f} times the loop for LoRA-A2's whole round. The loop itself runs at "
        f"{100 * share:.0f} % of the matrix rate on this machine, so {factor} times its speed would be {100 * factor * share:.0f} %: out "
        "of reach while attention, norms, GELU and copies are not matrix products. What is left of the time is those "
        f"({100 * other:.0f} %) and everything that is no kernel ({100 * kernels['everything else, Python too']:.0f} %).",
    )


def before_after_table():
    """The training of this commit beside that of an older one, in one run."""
    found = measured("before_after")
    lines = [
        "| | s before | s after | times as fast | times PEFT loop | losses agree |",
        "|---|---|---|---|---|---|",
    ]
    ratios, turns = [], []
    for shape in ("qv", "six", "lora-a2"):
        row = found[shape]["workers"]
        before, after = min(row["before_seconds"]), min(row["after_seconds"])
        close = abs(row["after_loss"] / row["before_loss"] - 1.0)
        lines.append(
            f"| {shape} | {before:.1f} | {after:.1f} | {before / after:.2f} | {found[shape]['peft_seconds'] / after:.2f} | "
            f"{'to the bit' if not close else f'to {close:.0e}'} |"
        )
        ratios.append(before / after)
        turns += [max(row[f"{side}_seconds"]) / min(row[f"{side}_seconds"]) for side in ("before", "after")]
    return "\n".join(lines) + (
        f"\n\nThe faster of two turns each; two turns of one side differ by a factor of up to {max(turns):.2f}. The ratios lie "
        f"between {min(ratios):.2f} and {max(ratios):.2f}, their mean is {sum(ratios) / len(ratios):.2f}."
    )


def language_table():
    """A language model's round of local training beside PEFT and Flower."""
    found = measured("language")
    named = {
        "peft": "PEFT loop",
        "flower": "Flower with PEFT",
        "padded": "ours, padded (the oracle)",
        "ours": "ours, packed",
        "ours, checkpointing": "ours, gradient checkpointing",
    }
    ways = {way: found["ways"][way] for way in named if way in found["ways"]}
    lines = [
        "| | tokens/s | times PEFT loop | times Flower | peak memory | loss a token |",
        "|---|---|---|---|---|---|",
    ]
    for way, row in ways.items():
        flower = f"{row['times_flower']:.2f}" if "times_flower" in row else "-"
        lines.append(
            f"| {named[way]} | {row['tokens_per_second']:.0f} | {row['times_peft']:.2f} | {flower} | {row['peak_mb']} MB | "
            f"{row['loss']:.4f} |"
        )
    gap = abs(ways["ours"]["loss"] / ways["peft"]["loss"] - 1.0)
    rates = " and ".join(f"{rate:.0f}" for rate in found["matrix_gflops"])
    return claim(
        gap < 1e-3,
        "\n".join(lines) + f"\n\nTurns of each way: {found['work']['turns']}; matrix rate {rates} GFLOP/s before and "
        "after. Our loss and that of the PEFT loop on the same batches agree to one in a thousand.",
    )


def trunk_table():
    """Adapting the top two layers of six alone, before and with the states below them kept."""
    found = measured("trunk")
    named = {
        "before, whole": "commit before, all layers",
        "before, top": "commit before, top two layers",
        "whole": "all layers",
        "top": "top two layers, nothing kept",
        "trunk": "top two layers, what lies below kept",
        "peft": "PEFT loop, top two layers",
        "flower": "Flower with PEFT, top two layers",
    }
    ways, loop = found["ways"], "before, whole"
    lines = ["| | examples/s | times the commit before, all layers | loss |", "|---|---|---|---|"]
    for way, words in named.items():
        if way in ways:
            own = ways[way]
            times = own["examples_per_second"] / ways[loop]["examples_per_second"]
            lines.append(f"| {words} | {own['examples_per_second']:.0f} | {times:.2f} | {own['loss']:.6f} |")
    first, trained = ways["first use"], ways["trunk"]
    rates = " and ".join(f"{rate:.0f}" for rate in found["matrix_gflops"])
    return claim(
        ways["top"]["loss"] == trained["loss"],
        "\n".join(lines)
        + f"\n\n{trained['examples']:,} examples, the faster of {len(trained['seconds'])} turns each; matrix rate {rates} "
        f"GFLOP/s before and after. With the states kept the loss is that without them to the last digit. To make them took "
        f"{min(first['seconds']):.1f} s for {first['examples']:,} examples of training and test "
        f"({first['bytes'] / 1e6:.0f} MB), and {min(trained['load_seconds']):.2f} s to find them again.",
    )


def whole_run_table():
    """Runs from the command line to the page, before and after, by part."""
    found = measured("whole_run")
    lines = [
        "| | | train, s | evaluate, s | rest, s | in all, s | times as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, sides in found["ways"].items():
        for side in ("before", "after"):
            own = min(sides[side], key=lambda run: run["whole"])
            cells = [f"{own[part]:.1f}" for part in ("train", "evaluate", "rest", "whole")]
            times = f"{sides['after_is_times_as_fast']:.2f}" if side == "after" else ""
            lines.append(f"| {name} | {side} | {' | '.join(cells)} | {times} |")
    run = found["run"]
    return "\n".join(lines) + (
        f"\n\n{run['data.train_examples']:,} training and {run['data.test_examples']:,} test examples, {run['split.clients']} "
        f"clients, rank {run['adapter.rank']}, {run['run.rounds']} rounds, scores of everybody after each; a cache that was "
        "empty at first, so that the rest of the last row holds the making of the states below."
    )


def curves_words():
    """What the four curves of cost show."""
    curves = measured("curves")["curves"]
    clients, rank = curves["clients"], curves["rank"]
    passes = curves["clients per pass"]
    spread = max(clients.values()) / min(clients.values())
    growth = {pair: curves["length"][pair[1]] / curves["length"][pair[0]] for pair in (("16", "128"), ("128", "512"))}
    return claim(
        clients["10000"] < 1.1 * clients["10"] and min(passes, key=passes.get) in "24" and growth["128", "512"] > 4,
        f"Cost per client does not grow with how many there are (the dearest of the four is {spread:.2f} times the cheapest, "
        f"and 10,000 cost {clients['10000'] / clients['10']:.2f} times what 10 do, each); rank 64 costs "
        f"{100 * (rank['64'] / rank['1'] - 1):.0f} % more than rank 1; from 16 to 128 tokens a text cost grows "
        f"{growth['16', '128']:.1f}-fold, from 128 to 512 {growth['128', '512']:.1f}-fold, since attention begins to count.",
    )


def memory_words():
    """How memory grows over rounds."""
    rounds = [found["resident_mb"] for found in measured("memory")["rounds"].values()]
    grown = [1000 * (run["500"] - run["50"]) / 450 for run in rounds]
    return f"Over rounds it grows by {min(grown):.0f} to {max(grown):.0f} kB each."


def losses_words():
    """What lost updates cost."""
    found = measured("losses")
    runs = {run["method"]: run for run in found["runs"]}
    first = found["runs"][0]
    done, away = (
        first["harmed"]["done"],
        sum(n for kind, n in first["absent"]["statuses"].items() if kind != "accepted"),
    )
    same = all(run["server state of harmed = of absent, bit for bit"] for run in runs.values())
    score = {
        (name, case): 100 * runs[name][case][part]
        for name, part in (("lora-a2", "global"), ("fedsa", "personal"))
        for case in ("harmed", "none")
    }
    return claim(
        same and sum(done.values()) - done["twice"] == away,
        f"{found['sites']} sites, {found['rounds']} rounds of the generated task, {sum(done.values())} of "
        f"{found['sites'] * found['rounds']} updates lost, late, sent twice or damaged "
        "([losses.py](../benchmarks/losses.py), [figures](../benchmarks/results/losses.json)): the server's state is the "
        f"same, bit for bit, as that of the run in which the same {away} were never reached ({done['twice']} came twice and "
        f"were counted once). Accuracy {score['lora-a2', 'harmed']:.1f} % against {score['lora-a2', 'none']:.1f} % "
        f"undisturbed for LoRA-A2 (global), {score['fedsa', 'harmed']:.1f} % against {score['fedsa', 'none']:.1f} % for "
        "FedSA-LoRA (mean of the personal ones): one seed, so noise.",
    )


def speed_in_short():
    """The README's sentence on speed."""
    best = measured("trainers")["qv"]["ways"]["workers"]
    return (
        "Local training runs on packed sequences, a worker a core: "
        f"{best['times_flower']:.1f} times as fast as Flower's simulation with stock PEFT and {best['times_peft']:.1f} times "
        "as fast as a loop over stock PEFT with dynamic padding, at the same loss, on two cores and for one shape of work "
        "([speed](docs/speed.md) has the others)."
    )
