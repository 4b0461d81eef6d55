# SPDX-License-Identifier: Apache-2.0
"""Write what is made from code and results: references, a page per method, tables, figures in prose, pictures.

python docs/generate.py            write
python docs/generate.py --check    say what is out of date, exit 1 if anything is
"""

import sys
from pathlib import Path

import choosing
import findings
import gpu_estimate
import gpu_results
import privacy_facts
import references
import results
import round_picture
import speeds
import study_results
from blocks import filled
from fedlora.methods import BUILT_IN

ROOT = Path(__file__).parents[1]

BLOCKS = {
    "README.md": {
        "picture": findings.picture_words,
        "support": choosing.support_table,
        "questions": choosing.questions,
        "speed": speeds.speed_in_short,
    },
    "docs/study.md": {
        "table": results.study_table,
        "findings": findings.study_findings,
        "noise": findings.noise,
    },
    "docs/grid.md": {
        "moderate": lambda: results.grid_table("0.1"),
        "extreme": lambda: results.grid_table("0.01"),
        "findings": findings.grid_findings,
        "noise": findings.noise,
    },
    "docs/heterogeneity.md": {
        "concepts": results.concepts_table,
        "findings": findings.concepts_findings,
        "profiles": results.profiles_table,
        "budgets": findings.profiles_findings,
    },
    "docs/speed.md": {
        "trainers": results.trainers_table,
        "kernels": results.kernels_table,
        "ratios": speeds.trainers_words,
        "before": speeds.before_after_table,
        "trunk": speeds.trunk_table,
        "language": speeds.language_table,
        "run": speeds.whole_run_table,
        "curves": speeds.curves_words,
        "memory": results.memory_table,
        "growth": speeds.memory_words,
    },
    "docs/gpu.md": {
        "measured": gpu_results.gpu_measured,
        "step": gpu_estimate.gpu_table,
        "room": gpu_estimate.gpu_memory_words,
    },
    "docs/deploy.md": {"losses": speeds.losses_words},
    "docs/privacy.md": {"methods": privacy_facts.privacy_table, "fuzz": results.fuzz_words},
}
"""Written page -> block -> what makes it."""


def made():
    """Path -> contents of every page and picture that is made as a whole."""
    pages = {
        "docs/config.md": references.config_page(),
        "docs/cli.md": references.cli_page(),
        "docs/methods.md": references.methods_page(),
        "docs/pictures/concepts.svg": round_picture.concepts_picture(),
        "docs/pictures/banking77.svg": results.study_picture(),
        "docs/pictures/cost.svg": results.cost_picture(),
    }
    pages |= study_results.pages()
    return pages | {f"docs/methods/{name}.md": references.method_page(name) for name in BUILT_IN}


def everything(root=ROOT):
    """Path -> contents of all that is made, or has blocks that are."""
    texts = {path: (root / path).read_text(encoding="utf-8") for path in BLOCKS}
    return made() | {path: filled(text, BLOCKS[path]) for path, text in texts.items()}


def main(check):
    """Write what is out of date, or say it."""
    stale = []
    for name, text in everything().items():
        path = ROOT / name
        drawn = check and path.suffix == ".svg"  # what a picture's file says depends on matplotlib's version
        if not path.exists() or (not drawn and path.read_text(encoding="utf-8") != text):
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
