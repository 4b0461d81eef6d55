"""The models that runs leave behind are generated with as transformers generates with what the runs export."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from causal_models import SMALL, needs_weights, require_equal, stock

import fedlora as package
from fedlora.app.build.encoding import render_settings
from fedlora.app.finished.generate import generate
from fedlora.app.finished.predict import adapter_folder
from fedlora.training.encoding.render import make_renderer, prompt_ids
from fedlora.training.generation import Limits

NAMES = ("Blue Spice", "Green Man", "The Mill", "Alimentum", "Cotto", "The Golden Curry", "Zizzi", "The Phoenix")
PLACES = ("riverside", "city centre", "old town", "harbour")
FOODS = ("Italian", "French", "Japanese", "English", "Indian", "Chinese")
PRICES = ("cheap", "moderate", "high", "less than 20 pounds")
MOST = 24


def meanings(count, seed):
    """Prompts of one to five facts, with a sentence that tells them."""
    generator = numpy.random.default_rng(seed)
    for _ in range(count):
        name, other, place, food, price = (
            words[generator.integers(len(words))] for words in (NAMES, NAMES, PLACES, FOODS, PRICES)
        )
        facts = [f"name[{name}]", f"food[{food}]", f"area[{place}]", f"price[{price}]", f"near[{other}]"]
        says = [f"{name}", f" serves {food} food", f" in the {place}", f" at {price} prices", f" near {other}"]
        told = int(generator.integers(1, 6))
        yield {"prompt": ", ".join(facts[:told]), "completion": "".join(says[:told]) + "."}


def loaded(folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if folder.name == "model":
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32)
    return PeftModel.from_pretrained(model, folder).eval()


def run_of(method, folder):
    (folder / "data").mkdir()
    for part, count in (("train", 160), ("test", 8)):
        lines = "".join(json.dumps(row) + "\n" for row in meanings(count, seed=len(part)))
        (folder / "data" / f"{part}.jsonl").write_text(lines)
    config = {
        "run": {"rounds": 3},
        "data": {"source": "files", "path": str(folder / "data")},
        "split": {"kind": "iid", "clients": 2},
        "model": {"base": str(SMALL), "task": "generate", "max_length": 96},
        "adapter": {"rank": 4},
        "train": {"lr": 5e-3},
        "method": {"name": method},
        "evaluate": {"most_new_tokens": MOST},
    }
    for _ in package.run(config, out=folder / "run"):
        pass
    return package.load_run(folder / "run")


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize(("method", "client"), [("fedit", None), ("flora", None), ("fedsa", "c1")])
def test_two_hundred_prompts_get_the_answers_of_transformers_on_the_exported_model(tmp_path, method, client):
    from transformers import AutoTokenizer

    run = run_of(method, tmp_path)
    prompts = [row["prompt"] for row in meanings(200, seed=9)]
    found = generate(run.folder, prompts, client)
    tokenizer = AutoTokenizer.from_pretrained(SMALL)
    renderer = make_renderer(prompts, tokenizer, "small", 96, render_settings(run.config))
    ids = [prompt_ids(prompt, renderer) for prompt in prompts]
    model = loaded(adapter_folder(Path(run.folder), client))
    expected = stock(model, ids, Limits(renderer.stops, 96, MOST), int(tokenizer.pad_token_id))
    parted = require_equal(model, ids, [one.ids for one in found], expected)
    lengths = sorted({len(one) for one in ids})
    ended = sum(one.ended for one in found)
    print(
        f"{method}: {200 - parted} of 200 equal, {parted} parted at equal logits; prompts of {lengths[0]} to {lengths[-1]} "
        f"tokens; {ended} answers ended, {sum(len(one.ids) for one in found)} tokens; "
        f"{adapter_folder(Path(run.folder), client).name}; {found[0].text!r}"
    )
    assert len(lengths) > 15
    assert ended > 20
