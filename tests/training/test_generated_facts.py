"""The generated task of language modelling, and the decoder that is made for it."""

import pytest

import fedlora
from fedlora.core.rounds import ScoreJob
from fedlora.federation.server import global_model
from fedlora.training.generated.decoder import generated_decoder
from fedlora.training.generated.facts import generated_facts, generated_texts


def test_facts_are_drawn_by_the_seed():
    one, two, other = generated_facts(50, 20), generated_facts(50, 20), generated_facts(50, 20, seed=1)
    assert one.train.examples == two.train.examples
    assert one.train.examples != other.train.examples
    assert one.train.examples[:20] != one.test.examples
    assert len(one.labels) == 5
    assert sorted(set(one.train.labels.tolist())) == list(range(5))


def test_every_example_has_three_different_right_answers_with_all_its_facts():
    data = generated_facts(100, 1)
    for example, kind in zip(data.train.examples, data.train.labels, strict=True):
        assert len(example.answers) == 3
        listed = example.prompt.removeprefix(f"{data.labels[kind]}: ")
        values = [fact.partition(" ")[2] for fact in listed.split(", ")]
        assert all(value in answer for value in values for answer in example.answers)


def test_the_base_is_not_made_from_what_is_to_be_learned():
    prompts = tuple(f"{kind}: " for kind in generated_facts(5, 1).labels)
    for text in generated_texts(300, 0):
        first, _, second = text.partition("\n")
        assert not (first.startswith(prompts) and not second.startswith(prompts))


def test_the_decoder_is_made_once_and_reads_any_text(tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    folders = [generated_decoder(width=16, layers=1, steps=2, before=lambda: made.append(1)) for _ in range(2)]
    assert folders[0] == folders[1]
    assert made == [1]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert tokenizer.decode(tokenizer("früher 日本\n")["input_ids"]) == "früher 日本\n"
    assert tokenizer.chat_template is None


@pytest.mark.slow  # the base takes a minute of a core, the rounds half a minute
def test_a_few_rounds_are_much_better_than_the_base():
    run = fedlora.run(task="generate", method="fedit", rounds=2, clients=4, lr=5e-3, model={"max_length": 96})
    federation, trainer = run.experiment.federation, run.experiment.trainer
    (base,) = trainer.score([ScoreJob(None, global_model(federation, run.server))])
    *_, last = run
    before, after = trainer.scoring.headline.of(base), trainer.scoring.headline.of(last.global_score)
    assert after < before / 3
