"""Record all cases on a checkout: `record.py CHECKOUT OUT.json [--only PATTERN] [--adapter MODULE] [--cache DIR]`."""

import argparse
import importlib
import json
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="the root of a checkout of any commit that the adapter knows")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--only", default="", help="regular expression: record the cases whose names it is found in")
    parser.add_argument("--adapter", default="adapter_before", help="the module that plays cases on that checkout")
    parser.add_argument("--cache", type=Path, help="a folder to keep generated bases in; by default a temporary one")
    words = parser.parse_args()
    source = (words.checkout / "src").resolve()
    with tempfile.TemporaryDirectory() as temporary:
        prepare(source, words.cache or Path(temporary))
        recording = record(words.adapter, words.only)
    home = Path(sys.modules["fedlora"].__file__ or "").resolve()
    if not home.is_relative_to(source):
        sys.exit(f"record.py: fedlora was imported from {home}, not from {source}.")
    words.out.write_text(json.dumps(recording, separators=(",", ":")), encoding="utf-8")
    count = sum(len(entries) for entries in recording.values())
    print(f"{len(recording)} cases, {count} entries: {words.out}", file=sys.stderr)


def prepare(source: Path, cache: Path) -> None:
    """One thread, kernels whose results do not depend on where tensors lie in memory, this source, this cache."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE"}
    os.environ |= {"XDG_CACHE_HOME": str(cache.resolve()), "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    sys.path.insert(0, str(source))
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def record(adapter: str, pattern: str) -> dict[str, dict[str, list[object]]]:
    """Case name -> entry name -> entry."""
    from capture import Recorder
    from cases import CASES, SLOW

    play = importlib.import_module(adapter).play
    cases = [case for case in [*CASES, *SLOW] if re.search(pattern, case["name"])] if pattern else CASES
    if not cases:
        sys.exit(f"record.py: no case has a name in which {pattern!r} is found.")
    recording = {}
    for number, case in enumerate(cases, start=1):
        started = time.perf_counter()
        out = Recorder()
        try:
            play(case, out)
        except Exception as error:  # the others are recorded all the same; this one differs by its outcome
            out.text("broke down", f"{type(error).__name__}: {error}")
            print(f"case {case['name']} broke down: {type(error).__name__}: {error}", file=sys.stderr)
        recording[case["name"]] = out.entries
        seconds = time.perf_counter() - started
        print(f"{number}/{len(cases)} {case['name']}: {len(out.entries)} entries, {seconds:.2f} s", file=sys.stderr)
    return recording


if __name__ == "__main__":
    main()
