"""Fault (h): an exported adapter must reload in stock PEFT to the same logits."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import LABELS, tiny_model, tokenizer

from fedlora.core.adapter import Adapter, Start
from fedlora.core.kinds import vera_projection
from fedlora.core.lowrank import LowRank
from fedlora.errors import ModelError
from fedlora.training.bases.model import make_base
from fedlora.training.bases.model_files import write_model
from fedlora.training.bases.peft_files import read_peft, write_peft

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS > 0).long()
SCALE = 1.7


def stock(kind, folder):
    """Stock PEFT's model on a fresh copy of the base: what any user of the adapter would load."""
    from peft import PeftModel

    return PeftModel.from_pretrained(tiny_model(kind), str(folder)).eval()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "gpt2", "llama"])
@pytest.mark.parametrize("ranks", [(2,), (2, 1, 3), (2, 0, 2)], ids=["one rank", "mixed ranks", "a module left out"])
def test_stock_peft_gives_our_logits(tiny_base, adapters, tmp_path, kind, ranks):
    base = tiny_base(kind)
    start = adapters(base, ranks)
    ours = base.logits(IDS, MASK, start, base.spec(3, SCALE))
    write_peft(tmp_path, start, base.spec(3, SCALE), base, start.adapter.dense)
    with torch.no_grad():
        theirs = stock(kind, tmp_path)(input_ids=IDS, attention_mask=MASK).logits
        assert float((ours - theirs).abs().max()) < 1e-5
        plain = tiny_model(kind)(input_ids=IDS, attention_mask=MASK).logits
    assert float((theirs - plain).abs().max()) > 1e-2


def test_alpha_goes_with_every_rank(tiny_base, adapters, tmp_path):
    base = tiny_base("bert")
    start = adapters(base, (4, 16, 16))
    write_peft(tmp_path, start, base.spec(3, 8.0), base, base.head)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 128.0)
    assert set(config["alpha_pattern"].values()) == {32.0}
    assert config["rank_pattern"].keys() == config["alpha_pattern"].keys()
    assert all(pattern.startswith("^") for pattern in config["rank_pattern"])


def test_a_missing_alpha_pattern_would_be_seen(tiny_base, adapters, tmp_path):
    """The planted fault: without alpha_pattern PEFT loads silently at another scale."""
    base = tiny_base("bert")
    start = adapters(base, (2, 1, 3))
    write_peft(tmp_path, start, base.spec(3, SCALE), base, start.adapter.dense)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "alpha_pattern": {}}))
    with torch.no_grad():
        theirs = stock("bert", tmp_path)(input_ids=IDS, attention_mask=MASK).logits
    assert float((base.logits(IDS, MASK, start, base.spec(3, SCALE)) - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_what_we_write_we_read(tiny_base, adapters, tmp_path, kind):
    base = tiny_base(kind)
    start = adapters(base)
    write_peft(tmp_path, start, base.spec(3, 8.0), base, start.adapter.dense)
    back = read_peft(tmp_path, base, base.spec(3, 2.0))
    for module in base.shapes:
        torch.testing.assert_close(
            2.0 * back.output[module] @ back.input[module],
            8.0 * start.adapter.output[module] @ start.adapter.input[module],
        )
    assert all(torch.equal(back.dense[name], part) for name, part in start.adapter.dense.items())


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_made_by_peft_can_be_the_start(tiny_base, tmp_path, rslora):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=6,
        target_modules=["query", "value"],
        rank_pattern={"layer.1.attention.self.query": 2},
        alpha_pattern={"layer.0.attention.self.value": 20},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    model = get_peft_model(tiny_model("bert"), config).eval()
    model.save_pretrained(tmp_path)
    base = make_base(tiny_model("bert"), tokenizer(), "bert", LABELS)
    adapter = read_peft(tmp_path, base, base.spec(3, 3.0))
    assert sorted(set(adapter.ranks().values())) == [0, 2, 4]  # maps that PEFT did not adapt have no slots
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=MASK).logits
        torch.testing.assert_close(
            base.logits(IDS, MASK, Start(adapter), base.spec(4, 3.0)), expected, rtol=1e-5, atol=1e-5
        )


def test_an_adapter_that_changes_more_is_refused(tiny_base, adapters, tmp_path):
    base = tiny_base("bert")
    write_peft(tmp_path, adapters(base), base.spec(3, 2.0), base, base.head)
    narrow = tiny_base("bert", targets=["query"])
    with pytest.raises(ModelError, match=r"also changes bert.encoder.*adapter\.targets"):
        read_peft(tmp_path, narrow, narrow.spec(3, 2.0))
    with pytest.raises(ModelError, match="no lora adapter"):
        read_peft(tmp_path / "nowhere", base, base.spec(3, 2.0))


def with_merged(base, start, dense):
    """The same adapter on a merged update, of pairs or dense."""
    draw = torch.Generator().manual_seed(5)
    pairs = {
        module: LowRank(torch.randn(2, d_in, generator=draw) / 9, torch.randn(d_out, 2, generator=draw) / 9)
        for module, (d_out, d_in) in base.shapes.items()
    }
    return replace(start, merged={m: p.B @ p.A for m, p in pairs.items()} if dense else pairs)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_fold_of_pairs_becomes_slots(tiny_base, adapters, tmp_path, kind):
    base = tiny_base(kind)
    start, spec = with_merged(base, adapters(base), dense=False), base.spec(3, SCALE)
    write_peft(tmp_path, start, spec, base, start.adapter.dense)
    with torch.no_grad():
        theirs = stock(kind, tmp_path)(input_ids=IDS, attention_mask=MASK).logits
    assert float((base.logits(IDS, MASK, start, spec) - theirs).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_dense_fold_becomes_a_whole_model(tiny_base, adapters, tmp_path, kind):
    from transformers import AutoModelForSequenceClassification

    base = tiny_base(kind)
    start, spec = with_merged(base, adapters(base), dense=True), base.spec(3, SCALE)
    with pytest.raises(ModelError, match="dense change"):
        write_peft(tmp_path, start, spec, base, start.adapter.dense)
    write_model(tmp_path, start, spec, base, start.adapter.dense)
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        logits = theirs(input_ids=IDS, attention_mask=MASK).logits
    assert float((base.logits(IDS, MASK, start, spec) - logits).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["bert", "distilbert", "gpt2"])
def test_stock_peft_gives_our_logits_with_vera(tiny_base, tmp_path, kind):
    """One frozen pair for the whole model, the scale inside b, heads included."""
    base = tiny_base(kind)
    spec = base.spec(4, SCALE, "vera", projection=vera_projection(base.shapes, 4, 3))
    draw = torch.Generator().manual_seed(1)
    inputs = {module: torch.randn(4, generator=draw) for module in base.shapes}
    outputs = {module: torch.randn(shape[0], generator=draw) for module, shape in base.shapes.items()}
    start = Start(Adapter(inputs, outputs, base.head, "vera"))
    ours = base.logits(IDS, MASK, start, spec)
    write_peft(tmp_path, start, spec, base, base.head)
    with torch.no_grad():
        theirs = stock(kind, tmp_path)(input_ids=IDS, attention_mask=MASK).logits
        plain = tiny_model(kind)(input_ids=IDS, attention_mask=MASK).logits
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((theirs - plain).abs().max()) > 1e-2
    back = read_peft(tmp_path, base, spec)
    torch.testing.assert_close(back.output, outputs)


def test_a_dense_adapter_becomes_a_whole_model(tiny_base, tmp_path):
    from transformers import AutoModelForSequenceClassification

    base = tiny_base("bert")
    spec = base.spec(1, 1.0, "dense")
    draw = torch.Generator().manual_seed(1)
    change = {name: torch.randn(shape, generator=draw) / 20 for name, shape in spec.shapes.items()}
    start = Start(Adapter({}, change, base.head, "dense"))
    write_model(tmp_path, start, spec, base, base.head)
    with torch.no_grad():
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        logits = theirs(input_ids=IDS, attention_mask=MASK).logits
    assert float((base.logits(IDS, MASK, start, spec) - logits).abs().max()) < 1e-5
