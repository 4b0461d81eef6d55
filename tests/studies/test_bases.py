"""The committed small decoder is what its page says, and its script makes another like it."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedlora.training.data.dialogues import Completion, Conversation, Message
from fedlora.training.encoding.render import (
    RenderSettings,
    make_renderer,
    prompt_ids,
    prompt_of,
    render,
    require_vocabulary,
)

BASES = Path(__file__).parents[2] / "studies" / "bases"
SMALL = BASES / "small-llama-novels"
needs_weights = pytest.mark.skipif(not SMALL.is_dir(), reason="the source archive has no trained weights")


@pytest.fixture(scope="module")
def small():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(SMALL, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(SMALL)


@needs_weights
def test_the_weights_are_those_that_the_page_names():
    (named,) = re.findall(r"`([0-9a-f]{64})`", (BASES / "README.md").read_text())
    assert hashlib.sha256((SMALL / "model.safetensors").read_bytes()).hexdigest() == named
    assert (SMALL / "model.safetensors").stat().st_size < 10 * 2**20


@needs_weights
def test_it_predicts_english_and_its_embeddings_are_tied(small):
    model, tokenizer = small
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_576_096
    assert model.lm_head.weight is model.model.embed_tokens.weight
    require_vocabulary(tokenizer, model.model.embed_tokens.num_embeddings, "small-llama-novels")

    def loss(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return float(model(input_ids=ids, labels=ids).loss)

    english = "He was a man of great fortune, and he had been in the house of his father for many years before he came."
    with torch.inference_mode():
        assert loss(english) < 4.5
        assert loss(" ".join(reversed(english.split()))) > loss(english) + 0.5


@needs_weights
def test_its_chat_template_renders_and_marks_the_answer(small):
    _, tokenizer = small
    talk = Conversation((Message("user", "Who is there?"), Message("assistant", "It is I.")))
    made = make_renderer([talk], tokenizer, "small-llama-novels", 256, RenderSettings())
    (found,) = render([talk], made)
    assert tokenizer.decode(found.ids) == "<|user|>Who is there?<|assistant|>It is I.<|endoftext|>"
    assert tokenizer.decode(found.ids[found.supervised]) == "It is I.<|endoftext|>"
    assert prompt_ids(prompt_of(talk), made).tolist() == found.ids[: found.answer].tolist()
    pair = Completion("name[Blue Spice]", "Blue Spice is here.")
    (plain,) = render([pair], make_renderer([pair], tokenizer, "small-llama-novels", 256, RenderSettings()))
    assert tokenizer.decode(plain.ids) == "name[Blue Spice]\nBlue Spice is here.<|endoftext|>"


@pytest.mark.slow
@needs_weights
def test_the_script_makes_another(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sentence = "the old man went to the house by the sea and there he saw a light in the window"
    words = sentence.split()
    texts = [" ".join(words[(n * 7 + k * k) % len(words)] for k in range(300)) for n in range(120)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    script = [sys.executable, BASES / "make_small_llama.py", tmp_path / "texts.jsonl", tmp_path / "out", "0.15"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads((tmp_path / "out" / "curve.jsonl").read_text().splitlines()[-1])
    assert last["step"] > 0
    assert last["held_out"] < 9.0, "8.3 is the logarithm of the vocabulary; a busy machine takes few steps"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == (SMALL / "chat_template.jinja").read_text()


def test_a_corpus_that_is_too_short_is_told(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    script = [sys.executable, BASES / "make_small_llama.py", tmp_path / "texts.jsonl", tmp_path / "out", "1"]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is too short: " in done.stderr
