"""Bases of every architecture: which maps, which head, and that the hook computes W0 + s (merged update + B A)."""

import pytest
import torch
from tiny_models import DECODERS, ENCODERS, LABELS, tiny_model, tokenizer

from fedlora.core.adapter import Start, effective
from fedlora.core.lowrank import LowRank, delta
from fedlora.errors import ModelError
from fedlora.training.bases.loading import load_base
from fedlora.training.bases.maps import find_maps
from fedlora.training.bases.model import make_base

MAPS_A_LAYER = {"bert": 6, "roberta": 6, "distilbert": 6, "electra": 6, "modernbert": 4, "gpt2": 4, "llama": 7}
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS > 0).long()


@pytest.mark.parametrize("kind", MAPS_A_LAYER)
def test_by_default_every_linear_map_of_the_layers(kind):
    maps = find_maps(tiny_model(kind), None, None)
    assert len(maps) == 2 * MAPS_A_LAYER[kind]
    assert not [name for name in maps if "pooler" in name or "classifier" in name or "embedding" in name]


def test_albert_shares_its_layers():
    maps = find_maps(tiny_model("albert"), None, None)
    assert [name.split(".")[-1] for name in maps] == ["query", "key", "value", "dense", "ffn", "ffn_output"]


def test_targets_are_ends_of_names_in_whole_words():
    model = tiny_model("bert")
    assert len(find_maps(model, ["query", "value"], None)) == 4
    assert len(find_maps(model, ["attention.output.dense"], None)) == 2
    assert len(find_maps(model, ["output.dense"], None)) == 4  # attention's output too: it ends like that
    assert list(find_maps(model, ["query"], [1])) == ["bert.encoder.layer.1.attention.self.query"]
    with pytest.raises(ModelError, match=r"\['q_proj'\].*dense, key, query, value"):
        find_maps(model, ["q_proj"], None)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("bert", {"classifier.weight", "classifier.bias"}),
        ("roberta", {f"classifier.{m}.{p}" for m in ("dense", "out_proj") for p in ("weight", "bias")}),
        ("distilbert", {f"{m}.{p}" for m in ("pre_classifier", "classifier") for p in ("weight", "bias")}),
        ("gpt2", {"score.weight"}),
    ],
)
def test_the_head_is_what_stands_above_the_encoder(tiny_base, kind, head):
    assert set(tiny_base(kind).head) == head


@pytest.mark.parametrize("kind", [*ENCODERS, "gpt2", "llama"])
def test_the_hook_computes_the_merged_model(tiny_base, adapters, kind):
    """The oracle: weights of a second model changed in place, in the orientation that it stores."""
    base = tiny_base(kind)
    start = adapters(base)
    first, second = list(base.shapes)[:2]
    merged = {
        first: LowRank(torch.randn(2, base.shapes[first][1]), 0.1 * torch.randn(base.shapes[first][0], 2)),
        second: 0.1 * torch.randn(base.shapes[second]),
    }
    start = Start(start.adapter, merged)
    merged = tiny_model(kind)
    with torch.no_grad():
        for module, change in effective(start, base.spec(3, 1.7)).items():
            weight = merged.get_submodule(module).weight
            weight += (change.T if module in base.transposed else change).float()
        for name, part in start.adapter.dense.items():
            merged.get_parameter(name).copy_(part)
    with torch.no_grad():
        expected = merged(input_ids=IDS, attention_mask=MASK).logits
        found = base.logits(IDS, MASK, start, base.spec(3, 1.7))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        plain = tiny_model(kind)(input_ids=IDS, attention_mask=MASK).logits
        assert float((found - plain).abs().max()) > 1e-2  # the adapter did something
        torch.testing.assert_close(base.model(input_ids=IDS, attention_mask=MASK).logits, plain)  # and is off again


def test_conv1d_is_transposed_and_not_square(tiny_base):
    base = tiny_base("gpt2")
    assert base.transposed == frozenset(base.shapes)
    assert base.shapes["transformer.h.0.mlp.c_fc"] == (48, 32)
    assert base.shapes["transformer.h.0.attn.c_attn"] == (96, 32)


def test_load_from_a_folder_and_the_same_head_every_time(tmp_path):
    tiny_model("bert").base_model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    one, two, other = (load_base(str(tmp_path), LABELS, seed=seed) for seed in (0, 0, 1))
    assert one.fingerprint == two.fingerprint == other.fingerprint
    assert one.tokenizer_fingerprint == two.tokenizer_fingerprint
    assert torch.equal(one.head["classifier.weight"], two.head["classifier.weight"])
    assert not torch.equal(one.head["classifier.weight"], other.head["classifier.weight"])
    assert one.name == tmp_path.name


def test_the_drawn_head_gets_the_spread_that_is_asked_for(tmp_path):
    """The same draw, wider; a pooler that came with the checkpoint, or is drawn too, stays as it is."""
    tiny_model("bert").base_model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    usual, wide = (load_base(str(tmp_path), LABELS, head_std=std) for std in (None, 0.5))
    assert float(wide.head["classifier.weight"].std()) == pytest.approx(0.5)
    ratio = wide.head["classifier.weight"] / usual.head["classifier.weight"]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    for name in wide.head.keys() - {"classifier.weight"}:
        assert torch.equal(wide.head[name], usual.head[name])


def test_a_head_that_came_with_the_checkpoint_is_not_spread(tmp_path):
    tiny_model("bert").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"adapter\.head_std is 0\.5, but model\.base .* brings a head for these 3 labels"
    ):
        load_base(str(tmp_path), LABELS, head_std=0.5)


def test_what_the_checkpoint_lacks_belongs_to_the_head(tmp_path):
    from transformers import BertModel

    model = tiny_model("bert")
    detach = BertModel(model.config, add_pooling_layer=False)
    detach.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), LABELS)
    assert set(base.head) == {f"{m}.{p}" for m in ("bert.pooler.dense", "classifier") for p in ("weight", "bias")}


def test_a_checkpoint_of_another_model_is_refused():
    model = tiny_model("bert")
    with pytest.raises(ModelError, match="no weights for"):
        make_base(model, tokenizer(), "b", LABELS, missing=["bert.encoder.layer.0.attention.self.query.weight"])


def test_no_model_there(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_base(str(tmp_path), LABELS)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_pads_with_a_token_that_ends_no_text(tmp_path, kind):
    """The rightmost token that is not padding is read: a padded batch scores as its texts alone."""
    tiny_model(kind).save_pretrained(tmp_path)
    own = tokenizer()
    own.pad_token = None
    own.save_pretrained(tmp_path)
    base = load_base(str(tmp_path), LABELS)
    assert base.tokenizer.pad_token == own.unk_token
    texts = ["w1 w2 w3", "w4"]
    together = base.model(**base.tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False))
    for number, text in enumerate(texts):
        alone = base.model(**base.tokenizer([text], return_tensors="pt", return_token_type_ids=False))
        torch.testing.assert_close(together.logits[number], alone.logits[0])


def test_a_tokenizer_without_a_token_to_pad_with(tmp_path):
    """Its only free token is the one that its texts end on."""
    tiny_model("llama").save_pretrained(tmp_path)
    own = tokenizer()
    own.pad_token = own.unk_token = None
    own.eos_token = own.convert_ids_to_tokens(own("w1")["input_ids"][-1])
    own.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no padding token: give its tokenizer a pad_token"):
        load_base(str(tmp_path), LABELS)


def test_a_model_that_cannot_classify(tmp_path):
    import transformers

    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 60}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a t5, which cannot classify texts: choose an encoder such as BERT"):
        load_base(str(tmp_path), LABELS)


def test_the_two_forms_of_a_fold_are_the_same(tiny_base, adapters):
    base = tiny_base("bert")
    start = adapters(base)
    pairs = {module: start.adapter.pair(module) for module in base.shapes}
    factored = base.logits(IDS, MASK, Start(start.adapter, pairs), base.spec(3, 0.5))
    dense = base.logits(
        IDS, MASK, Start(start.adapter, {module: delta(pair) for module, pair in pairs.items()}), base.spec(3, 0.5)
    )
    torch.testing.assert_close(factored, dense)
