"""Bad input of language modelling: one plain sentence, exit code 2, no traceback, nothing left behind."""

import json
import shutil

import pytest
import tomli_w

from fedlora.training.generated.facts import generated_facts

MARKED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% else %}<|assistant|>"
    "{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def pairs():
    """Rows with prompts and completions."""
    examples = generated_facts(40, 1).train.examples
    return [{"prompt": example.prompt, "completion": example.completion} for example in examples]


@pytest.fixture
def tried(smallest_decoder, command, tmp_path):
    """Runs the command line on rows with some keys of a config changed; returns its sentence."""

    def call(rows, base=smallest_decoder, words=("run",), test=None, **sections):
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        for part, kept in (("train", rows), ("test", test or rows)):
            (data / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        tree = {
            "run": {"rounds": 1},
            "data": {"source": "files", "path": str(data)},
            "split": {"kind": "iid", "clients": 2},
            "model": {"base": str(base), "task": "generate", "max_length": 64},
            "adapter": {"rank": 2},
            "method": {"name": "fedit"},
        }
        for section, keys in sections.items():
            tree[section] = {**tree.get(section, {}), **keys}
        config = tmp_path / "config.toml"
        config.write_text(tomli_w.dumps(tree))
        out = ("--out", tmp_path / "out") if words[0] == "run" else ()
        code, said, err = command(words[0], config, *out)
        assert code == 2, (said, err)
        assert "Traceback" not in err
        assert err.startswith("fedlora: ")
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "out").exists()
        return err

    return call


@pytest.fixture
def with_template(smallest_decoder, tmp_path):
    """The decoder's folder with a chat template."""

    def made(template):
        folder = tmp_path / "chat"
        shutil.copytree(smallest_decoder, folder)
        (folder / "chat_template.jinja").write_text(template)
        return folder

    return made


TALK = {"messages": [{"role": "user", "content": "Who is it?"}, {"role": "assistant", "content": "A cat."}]}


@pytest.mark.parametrize("command_word", ["run", "show"])
def test_an_encoder_generates_nothing(tried, pairs, smallest_base, command_word):
    said = tried(pairs, base=smallest_base, words=(command_word,))
    assert "a bert, which is no causal language model and generates no text: choose a decoder" in said


def test_conversations_need_a_chat_template(tried):
    assert "has no chat template: choose the instruction-tuned variant of the base" in tried([TALK] * 8)


def test_a_template_must_tell_the_assistants_part_from_the_heading(tried, with_template):
    """Without marks, and with a heading that a generation is not given, nobody can say where the answer begins."""
    plain = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    said = tried([TALK] * 8, base=with_template(plain))
    assert "where an answer should begin with 'A cat.', so that the answer cannot be told apart: mend the" in said


def test_a_template_whose_marks_hold_nothing(tried, with_template):
    empty = MARKED.replace(
        "{{ m['content'] }}<|end|>{% endgeneration %}", "{% endgeneration %}{{ m['content'] }}<|end|>"
    )
    said = tried([TALK] * 8, base=with_template(empty))
    assert "marks nothing of the last answer, so that there would be nothing to learn" in said


def test_an_end_token_that_the_template_does_not_know(tried, with_template):
    said = tried([TALK] * 8, base=with_template(MARKED), data={"end": "<|pad|>"})
    assert "data.end is '<|pad|>', which the chat template of model.base 'chat' does not write after an answer" in said


def test_an_end_token_that_is_no_token(tried, pairs):
    said = tried(pairs, data={"end": "</s>"})
    assert "The end-of-text token '</s>' is no token of the tokenizer" in said
    assert "name one of its special tokens in data.end, such as '<|end|>'" in said


def test_nothing_left_to_learn_after_cutting(tried, pairs):
    said = tried(pairs, model={"max_length": 4}, data={"truncate": "end"})
    assert "Of none of the 40 examples anything is left to learn within model.max_length (4 tokens): raise it" in said


def test_a_vocabulary_smaller_than_the_tokenizers(tried, pairs, smallest_decoder, tmp_path):
    from transformers import AutoTokenizer

    folder = tmp_path / "grown"
    shutil.copytree(smallest_decoder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    said = tried(pairs, base=folder)
    assert f"has {len(tokenizer)} tokens, but its weights have only {len(tokenizer) - 1}" in said
    assert f"resize_token_embeddings({len(tokenizer)})" in said


def test_more_tokens_than_the_base_has_positions(tried, pairs, tmp_path, smallest_decoder):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(smallest_decoder)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    assert "reads at most 20: set model.max_length to 20" in tried(pairs, base=tmp_path / "short")


ROWS = [
    (
        {"prompt": "a", "completion": " "},
        "row 41 of the train part has an empty 'completion', from which nothing can be",
    ),
    ({"prompt": "", "completion": "b"}, "row 41 of the train part has an empty 'prompt'"),
    ({"prompt": "a"}, "row 41 of the train part has no column 'completion'; it has 'prompt'. Set data.completion"),
    ({"prompt": ["a"], "completion": "b"}, "row 41 of the train part has a list in the column 'prompt', expected text"),
    ({"prompt": "a\ud800", "completion": "b"}, "half of a character (a lone surrogate)"),
]


@pytest.mark.parametrize(("row", "sentence"), ROWS)
@pytest.mark.parametrize("command_word", ["run", "show"])
def test_a_row_that_holds_no_example(tried, pairs, row, sentence, command_word):
    assert sentence in tried([*pairs, row], words=(command_word,))


def test_too_few_rows_for_two_parts(command, tmp_path, smallest_decoder):
    (tmp_path / "data.jsonl").write_text('{"text": "a cat"}\n{"text": "a mat"}\n')
    words = ("--set", f"data.path={tmp_path}/data.jsonl", "--set", "data.source=files", "--set", "model.task=generate")
    code, _, err = command("run", "--out", tmp_path / "out", "--set", f"model.base={smallest_decoder}", *words)
    assert code == 2
    assert "There are 2 examples in one table, of which a test_share of 0.2 (data.test_share) makes 0 test" in err


def test_half_a_character_in_a_kind(tried, pairs):
    said = tried([{**pair, "label": "x\ud800"} for pair in pairs])
    assert "The column 'label' holds '\\ud800', half of a character" in said


KEYS = [
    ({"data": {"references": "right"}}, "row 1 of the test part has no column 'right'; it has 'prompt', 'completion'"),
    ({"data": {"prompt": "ask"}}, "row 1 of the train part has no column 'ask'"),
    ({"data": {"format": "chat"}}, "data.format is 'chat'; input should be 'auto', 'text',"),
    (
        {"data": {"long_texts": "split"}},
        "data.long_texts is 'split', which is for plain texts, but the training part has",
    ),
    ({"split": {"kind": "dirichlet"}}, "which deals by labels, but the examples have no kinds: name the column"),
    ({"split": {"kind": "natural", "column": "who"}}, "row 1 of the train part has no column 'who'"),
    ({"split": {"clients": 41}}, "split.clients is 41, but there are only 40 training examples"),
    ({"model": {"max_length": 0}}, "model.max_length is 0; input should be greater than or equal to 1"),
    ({"model": {"task": "write"}}, "model.task is 'write'; input should be 'classify' or 'generate'"),
    ({"split": {"permuted": True}}, "split.permuted is true, which permutes labels, but model.task is 'generate'"),
    ({"adapter": {"head": "private"}}, "adapter.head is 'private', but model.task is 'generate'"),
]


@pytest.mark.parametrize(("keys", "sentence"), KEYS)
def test_a_key_that_does_not_fit(tried, pairs, keys, sentence):
    assert sentence in tried(pairs, **keys)


def test_one_owner_for_all(tried, pairs):
    said = tried([{**row, "who": "ward 1"} for row in pairs], split={"kind": "natural", "column": "who"})
    assert "the column 'who' (split.column) names one client, 'ward 1', for all 40 training examples" in said


def test_keys_of_language_modelling_in_a_config_that_classifies(config, command):
    for key in ("prompt", "completion", "messages", "references", "context"):
        code, _, err = command("run", config(data={key: "text"}))
        assert code == 2
        assert f"data.{key} is 'text', which is for language modelling, but model.task is 'classify'" in err


def test_weights_by_tokens_need_tokens_that_are_learned(config, command):
    code, _, err = command("run", config(clients={"weights": "tokens"}))
    assert code == 2
    assert "clients.weights is 'tokens', which counts the tokens that a language model learns" in err
