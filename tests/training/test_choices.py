"""Choice by log-likelihood: every text behind the same prompt as in training, with the sums of plain transformers."""

import math
from dataclasses import replace

import numpy
import pytest
import torch
from causal_models import causal_model, random_start
from chats import tokenizer

from fedlora.core.adapter import BOTH
from fedlora.core.metrics import Score
from fedlora.core.rounds import Duration, Fit, FitJob, ScoreJob
from fedlora.errors import DataError
from fedlora.training import choosing
from fedlora.training.answers import AnswerScorer
from fedlora.training.bases.model import make_causal_base
from fedlora.training.data.dialogue_rows import Layout, dialogues_from_rows
from fedlora.training.data.split import Owned
from fedlora.training.encoding.choices import encode_choices
from fedlora.training.encoding.encoded import encode_dialogues
from fedlora.training.encoding.render import RenderSettings, make_renderer, prompt_ids, prompt_of
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.loop import ModelTrainer
from fedlora.training.metrics.choice import Choice, choice_metric, most_likely, most_likely_per_byte
from fedlora.training.metrics.named import named_metrics
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.causal_lm import CausalLM

LENGTH = 120
ASKED = ("What is the capital of France?", "the cat sat on", "Who lived in the wood?")
CHOICES = (
    ["Paris", "The capital of France is Paris.", "a mat"],
    ["the mat", "the mat and said good day to you all, my friends"],
    ["an old woman", "a cat", "there was a house", "you"],
)  # of unequal lengths, one the beginning of another


def rows(kind="prompt-completion"):
    for asked, choices in zip(ASKED, CHOICES, strict=True):
        if kind == "messages":
            talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
            talk += [{"role": "user", "content": asked}, {"role": "assistant", "content": choices[0]}]
            yield {"messages": talk, "choices": choices}
        else:
            yield {"prompt": asked, "completion": choices[0], "choices": choices}


class Setting:
    """Three examples with choices, a base in float32, and a trainer that scores by them."""

    def __init__(self, kind="prompt-completion", style="auto", words="byte-level", forward=fastest_forward, length=LENGTH,
                 template="chatml"):  # fmt: skip
        made = tokenizer(words, template)
        model = causal_model("llama", vocabulary=max(made.get_vocab().values()) + 1, positions=LENGTH).float()
        self.base = make_causal_base(model, made, "tiny")
        self.examples = dialogues_from_rows(list(rows(kind)), Layout(choices="choices"), "test", "rows.jsonl")
        self.renderer = make_renderer(self.examples.examples, made, "tiny", length, RenderSettings(style=style))
        encoded = encode_dialogues(self.examples, self.renderer, "test", None).tokens
        self.encoded = encode_choices(self.examples.examples, None, self.renderer, "test")
        self.choices = self.encoded.choices
        self.tokens = replace(encoded, choices=self.choices)
        self.spec, self.start = self.base.spec(2, 0.5), random_start(self.base)
        self.forward = forward(self.base, self.spec)
        metrics = named_metrics(["choice_per_byte", "choice"])
        every = numpy.arange(3)
        self.trainer = ModelTrainer(
            self.forward,
            CausalLM(LENGTH, metrics),
            TrainSettings(),
            train=self.tokens,
            test=self.tokens,
            owned={"c0": Owned(every[:2], every[:0], every[:2]), "c1": Owned(every[2:], every[:0], every[2:])},
            seed=0,
            rounds=1,
            answers=AnswerScorer(self.forward, metrics, LENGTH),
        )

    def answers(self):
        return sorted(self.trainer.answers(ScoreJob(None, self.start)), key=lambda answer: answer.example)


def plain(setting, before, answer):
    """The sum of log-probabilities of an answer's ids behind a prompt's, from the logits of one text alone."""
    ids = torch.tensor([[*before, *answer]])
    with torch.inference_mode():
        logits = setting.base.logits(ids, torch.ones_like(ids), setting.start, setting.spec)[0].double()
    found = logits.log_softmax(dim=1)[len(before) - 1 : -1].gather(1, ids[0, len(before) :, None])
    return float(found.sum())


@pytest.mark.parametrize("forward", [fastest_forward, PaddedForward])
@pytest.mark.parametrize(
    ("kind", "style", "words"),
    [
        ("prompt-completion", "auto", "byte-level"),
        ("prompt-completion", "chat", "byte-level"),
        ("messages", "auto", "byte-level"),
        ("prompt-completion", "auto", "sentence-pieces"),
    ],
)
def test_likelihoods_are_those_of_each_text_alone_behind_the_prompt_of_a_generation(kind, style, words, forward):
    setting = Setting(kind, style, words, forward)
    for example, choices, answer in zip(setting.examples.examples, CHOICES, setting.answers(), strict=True):
        before = prompt_ids(prompt_of(example), setting.renderer).tolist()
        text = f"{example.prompt}\n" if words == "sentence-pieces" else setting.base.tokenizer.decode(before)
        assert [choice.text for choice in answer.choices] == choices
        for choice in answer.choices:
            whole = setting.base.tokenizer(text + choice.text, add_special_tokens=False)["input_ids"]
            ids = whole[len(setting.base.tokenizer(text, add_special_tokens=False)["input_ids"]) :]
            assert choice.log_likelihood == pytest.approx(plain(setting, before, ids), abs=1e-4)


@pytest.mark.parametrize("template", ["chatml", "llama-3", "gemma", "mistral", "zephyr", "phi-3"])
def test_of_every_template_the_end_of_an_answer_is_left_out_and_the_rest_is_what_training_sees(template):
    setting = Setting("prompt-completion", "chat", template=template)
    for example in range(3):
        right = int(setting.choices.of(numpy.array([example]))[0])
        trained = setting.tokens[example].tolist()
        assert setting.choices.tokens[right].tolist() == trained[:-1]
        assert trained[-1] in setting.renderer.stops
        assert setting.choices.tokens.mask(right).tolist() == setting.tokens.mask(example).tolist()[:-1]
        learned = setting.choices.tokens[right][setting.choices.tokens.mask(right)]
        assert setting.base.tokenizer.decode(learned).strip() == CHOICES[example][0]


def test_scores_count_the_most_likely_text_and_the_most_likely_a_byte():
    setting = Setting()
    expected = {"choice": 0, "choice_per_byte": 0}
    for answer in setting.answers():
        sums = [choice.log_likelihood for choice in answer.choices]
        a_byte = [value / len(choice.text.encode()) for value, choice in zip(sums, answer.choices, strict=True)]
        mine = {"choice": int(numpy.argmax(sums) == 0), "choice_per_byte": int(numpy.argmax(a_byte) == 0)}
        assert answer.sums == mine
        assert answer.text is None, "nothing is generated"
        expected = {name: expected[name] + mine[name] for name in expected}
    (score,) = setting.trainer.score([ScoreJob(None, setting.start)])
    assert {name: score.sums[name] for name in expected} == expected
    assert setting.trainer.scoring.headline.name == "choice_per_byte"
    assert setting.trainer.scoring.fault(score) is None
    parts = setting.trainer.score([ScoreJob(client, setting.start) for client in ("c0", "c1")])
    assert sum(parts, Score(0)).sums["choice"] == expected["choice"]


def test_what_is_weighed_is_kept_for_one_model_and_never_over_a_fit(monkeypatch):
    setting, calls = Setting(), []

    def counted(forward, choices, examples, start, portions, real=choosing.weighed):
        calls.append(len(examples))
        return real(forward, choices, examples, start, portions)

    monkeypatch.setattr("fedlora.training.answers.weighed", counted)
    setting.trainer.score([ScoreJob("c0", setting.start), ScoreJob("c1", setting.start), ScoreJob(None, setting.start)])
    assert calls == [2, 1]
    setting.trainer.fit([FitJob("c0", 1, Fit(setting.start, BOTH, duration=Duration(steps=1)))])
    setting.trainer.score([ScoreJob("c0", setting.start)])
    assert calls == [2, 1, 2]


def test_memory_that_runs_out_changes_no_choice(monkeypatch):
    expected, setting = Setting().answers(), Setting()

    def narrow(outputs, tokens, examples, real=choosing.log_likelihoods):
        if len(examples) > 1:
            raise torch.OutOfMemoryError
        return real(outputs, tokens, examples)

    monkeypatch.setattr(choosing, "log_likelihoods", narrow)
    with pytest.warns(UserWarning, match="the batch of texts to choose among is now"):
        found = setting.answers()
    for one, other in zip(expected, found, strict=True):
        for mine, theirs in zip(one.choices, other.choices, strict=True):
            assert mine.log_likelihood == pytest.approx(theirs.log_likelihood, abs=1e-4)


def test_too_long_texts_shorten_the_prompt_alike_for_all_of_an_example():
    whole = Setting()
    length = int(whole.choices.tokens.lengths.max()) - 3  # with its end the longest is four tokens too long
    setting = Setting(length=length)
    assert " of 3 test examples lose the beginning of their prompt" in setting.encoded.told[0]
    assert whole.encoded.told == []
    for example in range(3):
        mine = setting.choices.of(numpy.array([example]))
        prompts = {tuple(setting.choices.tokens.prompt(n).tolist()) for n in mine}
        (uncut,) = {tuple(whole.choices.tokens.prompt(n).tolist()) for n in mine}
        assert len(prompts) == 1
        assert uncut[-len(prompts.copy().pop()) :] == prompts.pop()
        for n in mine:
            answer = int(setting.choices.tokens.supervised_lengths[n])
            assert answer == int(whole.choices.tokens.supervised_lengths[n]), "no text is cut"
    assert int(setting.choices.tokens.lengths.max()) == length - 1


def test_a_text_that_leaves_no_room_for_a_prompt_is_refused():
    with pytest.raises(
        DataError, match=r"The text 'The capital of France is Paris\.' to choose has \d+ tokens with its"
    ):
        Setting(length=6)


def test_texts_that_the_tokenizer_reads_alike_are_refused():
    setting = Setting()
    words = setting.base.tokenizer
    examples = dialogues_from_rows(
        [{"prompt": "a?", "completion": "A b", "choices": ["A b", "c", "C"]}], Layout(choices="choices"), "test", "x"
    ).examples

    class Lower:
        def __call__(self, text, **options):
            return words([one.lower() for one in text] if isinstance(text, list) else text.lower(), **options)

        def __getattr__(self, name):
            return getattr(words, name)

    renderer = make_renderer(examples, Lower(), "lower", LENGTH, RenderSettings())
    with pytest.raises(DataError, match="reads of the texts to choose among 'c' and 'C' as the same, so that"):
        encode_choices(examples, None, renderer, "test")


def test_choices_come_along_with_the_examples_they_are_of():
    setting = Setting()
    some = setting.tokens.take(numpy.array([2, 0])).choices
    assert some.texts == (*CHOICES[2], *CHOICES[0])
    for place, example in ((0, 2), (1, 0)):
        mine, theirs = some.of(numpy.array([place])), setting.choices.of(numpy.array([example]))
        assert [some.tokens[n].tolist() for n in mine] == [setting.choices.tokens[n].tolist() for n in theirs]
    assert encode_choices(
        setting.examples.examples, numpy.array([1]), setting.renderer, "training"
    ).choices.texts == tuple(CHOICES[1])


def test_examples_that_are_scored_need_choices():
    examples = dialogues_from_rows(
        [{"prompt": "a", "completion": "b"}], Layout(choices="choices"), "train", "x"
    ).examples
    setting = Setting()
    with pytest.raises(DataError, match="Example 1 of the training part is scored and has no texts to choose among"):
        encode_choices(examples, numpy.array([0]), setting.renderer, "training")


def test_of_equal_likelihoods_the_first_is_chosen_and_of_broken_ones_none():
    equal = (Choice("no", -2.0), Choice("yes", -2.0))
    assert most_likely(equal) is equal[0]
    assert most_likely_per_byte(equal) is equal[1], "yes has more bytes"
    assert most_likely_per_byte((Choice("e", -2.0), Choice("é", -3.9))).text == "é", "two bytes, one character"
    broken = (Choice("no", math.nan), Choice("yes", -1.0))
    assert most_likely(broken) is None
    assert choice_metric("choice").count(broken, ["yes", "no"]) == {"choice": 0}
    assert choice_metric("choice").count((Choice("no", -2.0), Choice("yes", -1.0)), ["maybe", "yes"]) == {"choice": 1}


def test_planted_a_likelihood_behind_another_prompt_is_another():
    """The oracle above notices when texts are weighed behind another prompt."""
    setting = Setting()
    before = prompt_ids(prompt_of(setting.examples.examples[0]), setting.renderer).tolist()
    ids = setting.choices.tokens[0].tolist()[len(before) :]
    assert plain(setting, before, ids) != pytest.approx(plain(setting, before[1:], ids), abs=1e-3)


READ = {"prompt": "p?", "completion": "yes", "choices": ["yes", "no"]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"choices": None}, "row 1 of the test part has no column 'choices' with the texts to choose among, which evaluate.m"),
        ({"choices": ["yes"]}, "has 1 of the texts to choose among in the column 'choices', expected at least two: add"),
        ({"choices": []}, "has 0 of the texts to choose among in the column 'choices', expected at least two"),
        ({"choices": ["yes", "no", "no"]}, "has 'no' 2 times in the column 'choices' of texts to choose among"),
        ({"choices": ["no", "maybe"]}, "has the right answer 'yes', which is not among the texts to choose among in the column"),
        ({"choices": ["yes ", "no"]}, "write both alike, to the last space"),
        ({"choices": "yes, no"}, "has 'yes, no' in the column 'choices', expected a list of texts to choose among (in csv"),
        ({"choices": {"text": ["yes", "no"]}}, "expected a list of texts to choose among"),
        ({"choices": ["yes", None]}, "expected a list of texts to choose among"),
        ({"choices": ["yes", " "]}, "has an empty text to choose in the column 'choices': leave it out"),
        ({"choices": ["yes", "\ud800"]}, "column 'choices', holds '\\ud800', half of a character"),
    ],
)  # fmt: skip
def test_choices_that_are_none_are_refused_with_one_sentence(change, sentence):
    with pytest.raises(DataError) as refused:
        dialogues_from_rows([{**READ, **change}], Layout(choices="choices"), "test", "rows.jsonl")
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_choices_are_read_where_they_are_asked_for_as_lists_or_json():
    def read(row, part="test", **layout):
        return dialogues_from_rows([row], Layout(**layout), part, "rows").examples[0].choices

    assert read(READ) == (), "a column of this name belongs to nobody unless a metric asks for it"
    assert read({**READ, "choices": 3}) == ()
    assert read(READ, choices="choices") == ("yes", "no")
    assert read({**READ, "choices": '["no", "yes"]'}, choices="choices") == ("no", "yes")
    assert read({"prompt": "1+1", "completion": 2, "options": [1, 2]}, choices="options") == ("1", "2")
    assert read({**READ, "choices": None}, "train", choices="choices") == (), "training rows may lack them"
    talk = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "yes"}]
    assert read({"messages": talk, "choices": ["no", "yes"]}, choices="choices") == ("no", "yes")
