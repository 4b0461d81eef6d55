"""What a run of language modelling leaves is loaded by stock PEFT and transformers to the same logits."""

import json
import shutil

import pytest
import torch
from chats import tokenizer
from tests.text_data import text_tree, write_data, write_decoder, write_rows

from fedlora.app.build.simulation import build, load
from fedlora.app.config.schema import make_config
from fedlora.app.run.results import client_model
from fedlora.app.run.run import Run
from fedlora.core.adapter import Adapter, AdapterSpec, Start
from fedlora.errors import ConfigError, ModelError
from fedlora.federation.server import global_model
from fedlora.training.bases.one_rank import RANKS, one_rank

IDS = torch.tensor([[20, 31, 42, 53, 64, 75, 86, 97], [30, 60, 90, 120, 150, 180, 210, 240]])
MASK = torch.ones_like(IDS)
TOLERANCE = 1e-5
CASES = {
    "one rank": {"method": {"name": "fedit"}},
    "mixed ranks": {"method": {"name": "replicate"}, "clients": {"ranks": [1, 2, 4]}},
    "slots": {"method": {"name": "lora-a2"}, "clients": {"ranks": [1, 2, 4]}},
    "merged updates": {"method": {"name": "flora"}, "clients": {"ranks": [1, 1, 2]}, "run": {"rounds": 1}},
    "vera": {"method": {"name": "fedit"}, "adapter": {"kind": "vera"}, "train": {"lr": 0.1}},
    "whole model": {"method": {"name": "full"}, "train": {"lr": 2e-3}},
}


@pytest.fixture(scope="module")
def grounds(tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = folder = tmp_path_factory.mktemp(kind)
            write_data(folder / "data", 24, 6)
            write_decoder(folder / "base", kind)
        return made[kind]

    return of


@pytest.fixture(scope="module")
def runs(grounds):
    """(architecture, case) -> a finished run."""
    made = {}

    def of(kind, case):
        if (kind, case) not in made:
            ground = grounds(kind)
            config = make_config(text_tree(ground, **CASES[case]))
            run = made[kind, case] = Run(build(config, load(config), workers=1), ground / case.replace(" ", "-"))
            list(run.rounds())
        return made[kind, case]

    return of


def ours(run, start):
    experiment = run.experiment
    with torch.inference_mode():
        return experiment.base.logits(IDS, MASK, start, experiment.spec)


def stock(run, folder):
    """Logits of what stock libraries make of a folder, and of the base alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(run.experiment.config.model.base).eval()
    with torch.inference_mode():
        plain = base(input_ids=IDS, attention_mask=MASK).logits.clone()
        whole = (folder / "config.json").is_file()
        model = AutoModelForCausalLM.from_pretrained(folder) if whole else PeftModel.from_pretrained(base, str(folder))
        return model.eval()(input_ids=IDS, attention_mask=MASK).logits, plain


def agree(run, start, folder):
    theirs, plain = stock(run, folder)
    assert float((theirs - plain).abs().max()) > 1e-2, "nothing was learned that could be lost"
    assert float((ours(run, start) - theirs).abs().max()) < TOLERANCE


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_stock_libraries_load_what_a_run_leaves(runs, kind, case):
    run = runs(kind, case)
    folder = run.folder / ("model" if case == "whole model" else "adapter")
    agree(run, global_model(run.experiment.federation, run.server), folder)
    if case != "whole model":
        assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("case", CASES)
def test_a_merged_model_computes_the_same(runs, tmp_path, fedlora, kind, case):
    run = runs(kind, case)
    code, out, err = fedlora("export", run.folder, tmp_path / "whole", "--merged")
    assert (code, "a whole model" in out) == (0, True), err
    agree(run, global_model(run.experiment.federation, run.server), tmp_path / "whole")


def test_tied_embeddings_stay_tied(runs):
    """The planted fault: saved as two, the product with the vocabulary would be the base's."""
    from transformers import AutoModelForCausalLM

    run = runs("llama", "whole model")
    model = AutoModelForCausalLM.from_pretrained(run.folder / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    base = AutoModelForCausalLM.from_pretrained(run.experiment.config.model.base)
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight), "full fine-tuning moves the embedding too"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "whole model"])
def test_an_adapter_for_vllm_keeps_its_rules_and_the_logits(runs, tmp_path, fedlora, kind, case):
    run, folder = runs(kind, case), tmp_path / "served"
    code, out, err = fedlora("export", run.folder, folder, "--vllm")
    assert code == 0, err
    agree(run, global_model(run.experiment.federation, run.server), folder)
    refused_by_vllm(folder)
    assert f"--max-lora-rank {json.loads((folder / 'adapter_config.json').read_text())['r']}" in out


def refused_by_vllm(folder):
    """The rules of vLLM's documentation and of its reader of PEFT configs, as assertions."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text())
    rank = config["r"]
    assert rank in RANKS
    assert config["peft_type"] == "LORA"
    assert not config["modules_to_save"]
    assert config["bias"] == "none"
    assert not config["use_dora"]
    assert not config["use_rslora"]
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert name.startswith("base_model.model.")
        assert name.endswith((".lora_A.weight", ".lora_B.weight"))
        assert tensor.shape[0 if ".lora_A." in name else 1] == rank
        module = name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        assert module in config["target_modules"]


def test_what_is_filled_up_is_zero_and_the_scale_is_kept(runs, tmp_path, fedlora):
    from safetensors.torch import load_file

    run = runs("llama", "mixed ranks")
    assert fedlora("export", run.folder, tmp_path / "served", "--vllm")[0] == 0
    before = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    after = load_file(tmp_path / "served" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "served" / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == run.experiment.spec.scale
    for name in (name for name in before if ".lora_A." in name):
        A, B = after[name], after[name.replace("lora_A", "lora_B")]
        used = A.any(dim=1) | B.any(dim=0)
        assert int(used.sum()) <= 4
        assert torch.equal(A[used], before[name][: int(used.sum())])


def test_personal_adapters_are_loaded_too(grounds, tmp_path, fedlora):
    config = make_config(text_tree(grounds("llama"), method={"name": "fedsa"}, clients={"ranks": [1, 2, 4]}))
    run = Run(build(config, load(config), workers=1), tmp_path / "run")
    list(run.rounds())
    for client in run.experiment.federation.transport.roster():
        start = client_model(run.experiment, run.server, client)
        agree(run, start, run.folder / "clients" / client.id / "adapter")
        for form in ("--merged", "--vllm"):
            target = tmp_path / f"{client.id}{form}"
            assert fedlora("export", run.folder, target, "--client", client.id, form)[0] == 0
            agree(run, start, target)
    files = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    homes = [run.folder / "clients" / f"c{n}" / "adapter" for n in range(3)]
    for name in files:
        assert len({(home / name).read_bytes() for home in homes}) == 1


def test_tokenizer_and_template_lie_beside_the_adapter(runs, grounds):
    from transformers import AutoTokenizer

    run = runs("llama", "one rank")
    beside, base = (
        AutoTokenizer.from_pretrained(place) for place in (run.folder / "adapter", grounds("llama") / "base")
    )
    assert beside.get_vocab() == base.get_vocab()
    assert beside.chat_template == base.chat_template
    card = (run.folder / "adapter" / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert "head" not in card
    assert "labels" not in card
    assert 'tokenizer("a prompt" + "\\n"' in card
    assert 'convert_tokens_to_ids(["<|endoftext|>"])' in card
    for name in ("loss", "perplexity", "bits_per_byte", "token_accuracy"):
        assert name in card


@pytest.mark.parametrize("chat", [False, True], ids=["prompts", "messages"])
def test_the_card_asks_the_model_as_it_was_trained(grounds, tmp_path, chat):
    """Its code is run: an answer of the right model, after a prompt of the right tokens."""
    data = {"style": "chat"} if chat else {}
    config = make_config(text_tree(grounds("llama"), data=data, run={"rounds": 1}))
    run = Run(build(config, load(config), workers=1), tmp_path / "run")
    list(run.rounds())
    card = (run.folder / "adapter" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(run.folder / "adapter"))
    space = {}
    exec(compile(code.replace('"a prompt"', '"cat, red"'), "card", "exec"), space)
    prompt = space["tokenizer"].decode(space["ids"]["input_ids"][0])
    expected = "<|im_start|>user\ncat, red<|im_end|>\n<|im_start|>assistant\n" if chat else "cat, red\n"
    assert prompt == expected
    assert space["tokenizer"].convert_ids_to_tokens(space["stops"])[0] == ("<|im_end|>" if chat else "<|endoftext|>")


def test_both_forms_at_once_are_refused(runs, tmp_path, fedlora):
    code, _, err = fedlora("export", runs("llama", "one rank").folder, tmp_path / "x", "--merged", "--vllm")
    assert (code, err.count("\n")) == (2, 1)
    assert "choose one" in err
    assert not (tmp_path / "x").exists()


def test_a_whole_model_is_no_adapter_for_vllm(runs, tmp_path, fedlora):
    code, _, err = fedlora("export", runs("llama", "whole model").folder, tmp_path / "x", "--vllm")
    assert code == 2
    assert "--merged" in err


def test_a_classifier_is_merged_with_its_head_and_no_adapter_for_vllm(config, tmp_path, fedlora):
    from transformers import AutoModelForSequenceClassification

    run = Run(build(make_config_of(config(run={"rounds": 1})), workers=1), tmp_path / "run")
    list(run.rounds())
    assert fedlora("export", run.folder, tmp_path / "whole", "--merged")[0] == 0
    start = global_model(run.experiment.federation, run.server)
    ids = torch.tensor([[2, 9, 12, 7, 3]])
    with torch.inference_mode():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()(input_ids=ids).logits
        mine = run.experiment.base.logits(ids, torch.ones_like(ids), start, run.experiment.spec)
    assert float((mine - theirs).abs().max()) < TOLERANCE
    code, _, err = fedlora("export", run.folder, tmp_path / "x", "--vllm")
    assert (code, "classifier" in err) == (2, True)


def make_config_of(path):
    from fedlora.app.config.schema import read_config

    return read_config(path)


def test_a_run_goes_on_from_an_adapter_with_the_template_beside_it(runs, grounds, tmp_path):
    run, start = runs("llama", "one rank"), tmp_path / "start"
    shutil.copytree(run.folder / "adapter", start)
    talk = {"messages": [{"role": "user", "content": "cat, red"}, {"role": "assistant", "content": "It is red."}]}
    write_rows(tmp_path / "talks.jsonl", [talk] * 20)
    bare = shutil.copytree(grounds("llama") / "base", tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    data = {"path": str(tmp_path / "talks.jsonl"), "label": "label"}
    tree = text_tree(grounds("llama"), data=data, model={"base": str(bare)}, run={"rounds": 1})
    with pytest.raises(ModelError, match="template"):
        load(make_config(tree))
    config = make_config({**tree, "adapter": {"rank": 4, "start": str(start)}})
    (record,) = Run(build(config, load(config), workers=1))
    assert record.loss is not None


def test_an_adapter_of_another_tokenizer_is_no_start(runs, grounds, tmp_path):
    start = shutil.copytree(runs("llama", "one rank").folder / "adapter", tmp_path / "start")
    other = tokenizer("sentence-pieces", "mistral")
    other.save_pretrained(start)
    tree = text_tree(grounds("llama"), adapter={"rank": 4, "start": str(start)})
    with pytest.raises(ModelError, match=r"adapter\.start .* tokens that differ from the \d+ of the base"):
        load(make_config(tree))


def test_more_slots_than_vllm_takes_are_refused():
    shapes = {"map": (600, 600)}
    draw = torch.Generator().manual_seed(0)
    pair = Adapter({"map": torch.randn(513, 600, generator=draw)}, {"map": torch.randn(600, 513, generator=draw)})
    with pytest.raises(ModelError, match=r"513 slots .* at most 512: export the whole model with --merged"):
        one_rank(Start(pair), AdapterSpec(shapes, 513, 1.0))


def test_a_private_head_is_refused_where_there_is_no_head(grounds):
    with pytest.raises(ConfigError, match=r"adapter\.head is 'private'.* has no head"):
        make_config(text_tree(grounds("llama"), adapter={"head": "private"}))
