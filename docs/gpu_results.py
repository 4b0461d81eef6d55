"""What the benchmark found on a card, if it has run on one; its file is written by `benchmarks/gpu.py`."""

import json
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu.json"
WAYS = ("masked", "grouped")


def gpu_measured(path=RESULTS):
    """What was measured, or that nothing was."""
    if not path.is_file():
        return "**Not run yet**: no card was at hand. What stands on this page is a design on paper, and a command."
    told = json.loads(path.read_text(encoding="utf-8"))
    here, limits = told["environment"], told.get("limits")
    lines = [
        f"Measured on {here['device']} with torch {here['torch']}, transformers {here['transformers']} and peft {here['peft']}"
        + (", shapes made small for a trial: these figures say nothing." if told["small"] else "."),
    ]
    if limits:
        rates = ", ".join(f"{rate / 1e12:,.0f} TFLOP/s in {dtype}" for dtype, rate in limits["flops"].items())
        lines.append(f"At its limits: products {rates}; copies {limits['bytes_a_second'] / 1e12:.2f} TB/s.")
    if differences := told.get("loss_difference_float32"):
        each = ", ".join(f"{way} {value:.1e}" for way, value in differences.items())
        lines.append(f"Largest difference of a client's loss in float32 from padded batches on a CPU: {each}.")
    for name in (name for name, found in told.items() if isinstance(found, dict) and "cohort" in found):
        lines += ["", *_steps(name, told[name], limits)]
    for what in ("failed", "left_out"):
        if told[what]:
            lines += ["", f"{what.replace('_', ' ').capitalize()}: {'; '.join(told[what])}."]
    return "\n".join(lines)


def _steps(name, found, limits):
    """A shape's table, and what belongs to it."""
    peft = found.get("peft")
    lines = [
        f"{name}:",
        "",
        "| factors | clients a pass | ms a step | examples/s | share of the matrix rate | times stock PEFT | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [(way, size, step) for way in WAYS for size, step in found["cohort"].get(way, {}).items()]
    for way, size, step in [*rows, *([("stock PEFT, padded", "-", peft)] if peft else [])]:
        share = f"{1e14 * step['tflops'] / limits['flops']['bfloat16']:.1f} %" if limits else ""
        ratio = f"{step['examples_per_second'] / peft['examples_per_second']:.1f}" if peft else ""
        peak = f"{step['peak_bytes'] / 1e9:.1f} GB" if step.get("peak_bytes") else ""
        cells = (way, size, f"{step['step_ms']:.1f}", f"{step['examples_per_second']:,.0f}", share, ratio, peak)
        lines.append(f"| {' | '.join(cells)} |")
    for key, of in (("attention_ms", "a layer's attention"), ("factors_ms", "what one map's factors add")):
        if key in found:
            each = ", ".join(f"{way} {value:.2f} ms" for way, value in found[key].items())
            lines += ["", f"Forward and back of {of}: {each}."]
    for way, seen in found.get("kernels", {}).items():
        most = ", ".join(f"{kernel.replace('|', ' ')[:60]} {value:.2f} ms" for kernel, _, value in seen["slowest"][:5])
        lines += [
            "",
            f"A step, {way}: {seen['launches']:,} launches, {seen['waits']} waits, {seen['busy_ms']:.1f} ms of kernels: {most}.",
        ]
    return lines
