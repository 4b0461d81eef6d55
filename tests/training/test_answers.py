"""Training, scores and generation put the same token ids before an answer; answers are scored, once a model."""

import numpy
import pytest
import torch
from causal_models import causal_model, greedy, random_start
from chats import tokenizer

from fedlora.core.adapter import BOTH, Start, fresh_adapter
from fedlora.core.metrics import Score
from fedlora.core.rounds import Duration, Fit, FitJob, ScoreJob
from fedlora.training import answers as subject
from fedlora.training.answers import AnswerScorer
from fedlora.training.bases.model import make_causal_base
from fedlora.training.data.dialogue_rows import Layout, dialogues_from_rows
from fedlora.training.data.split import Owned
from fedlora.training.encoding.encoded import encode_dialogues
from fedlora.training.encoding.render import RenderSettings, make_renderer, prompt_ids, prompt_of
from fedlora.training.encoding.tokens import Tokens
from fedlora.training.forward.packed import fastest_forward
from fedlora.training.forward.padded import PaddedForward
from fedlora.training.generation import Limits
from fedlora.training.loop import ModelTrainer
from fedlora.training.metrics.generation import generation_metrics, generation_sums
from fedlora.training.settings import TrainSettings
from fedlora.training.tasks.causal_lm import CausalLM

ASKED, SAID = "What is the capital of France?", "The capital of France is Paris."
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day to you."},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": SAID},
]
TOLD = [{"from": {"user": "human", "assistant": "gpt"}.get(m["role"], "system"), "value": m["content"]} for m in TALK]
FORMATS = {
    "prompt-completion": {"prompt": ASKED, "completion": SAID},
    "question-answer": {"question": ASKED, "answer": SAID},
    "alpaca": {"instruction": "Answer.", "input": ASKED, "output": SAID},
    "messages": {"messages": TALK},
    "sharegpt": {"conversations": TOLD},
}
WAYS = [(name, "auto", "byte-level") for name in FORMATS] + [(name, "chat", "byte-level") for name in FORMATS]
WAYS += [("prompt-completion", "auto", "sentence-pieces"), ("messages", "auto", "sentence-pieces")]
LENGTH = 120


class Setting:
    """One example of a format as a client's training and test part, and a trainer on it."""

    def __init__(self, name, style="auto", kind="byte-level", count=1, forward=fastest_forward):
        rows = [FORMATS[name]] * count
        self.examples = dialogues_from_rows(rows, Layout(format=name), "train", "rows.jsonl", None)
        words = tokenizer(kind, "chatml")
        model = causal_model("llama", vocabulary=max(words.get_vocab().values()) + 1, positions=LENGTH).float()
        self.base = make_causal_base(model, words, "tiny")
        self.renderer = make_renderer(self.examples.examples, words, "tiny", LENGTH, RenderSettings(style=style))
        self.tokens = encode_dialogues(self.examples, self.renderer, "training", None).tokens
        self.spec, self.metrics = self.base.spec(2, 0.5), generation_metrics(["rouge_l", "exact_match"])
        every = numpy.arange(count)
        passes = forward(self.base, self.spec)
        self.trainer = ModelTrainer(
            passes,
            CausalLM(LENGTH, self.metrics),
            TrainSettings(lr=1e-3),
            train=self.tokens,
            test=self.tokens,
            owned={"c0": Owned(every[::2], every[:0], every[::2]), "c1": Owned(every[1::2], every[:0], every[1::2])},
            seed=0,
            rounds=1,
            answers=AnswerScorer(passes, self.metrics, LENGTH, 6),
        )

    def seen(self, work):
        """The ids that the model's embeddings are asked for meanwhile, call by call."""
        calls = []
        hook = self.base.model.get_input_embeddings().register_forward_pre_hook(
            lambda _, inputs: calls.append(inputs[0].flatten().tolist())
        )
        try:
            work()
        finally:
            hook.remove()
        return calls


def asked_three_times(setting):
    """What stands before the answer in training, in a score's pass, and in a score's generation."""
    start = fresh_adapter(setting.spec, 2, 0)
    job = FitJob("c0", 1, Fit(Start(start), BOTH, duration=Duration(steps=1)))
    trained = setting.seen(lambda: setting.trainer.fit([job]))
    scored = setting.seen(lambda: setting.trainer.score([ScoreJob("c0", Start(start))]))
    count = int(setting.tokens.answers[0])
    assert setting.tokens[0].tolist() == trained[0] == scored[0]
    return trained[0][:count], scored[0][:count], scored[1]


@pytest.mark.parametrize("forward", [fastest_forward, PaddedForward])
@pytest.mark.parametrize(("name", "style", "kind"), WAYS)
def test_the_same_ids_stand_before_the_answer_in_training_scores_and_generation(name, style, kind, forward):
    setting = Setting(name, style, kind, forward=forward)
    trained, scored, generated = asked_three_times(setting)
    assert trained == scored == generated
    asked = prompt_ids(prompt_of(setting.examples.examples[0]), setting.renderer)
    assert asked.tolist() == trained, "what fedlora generate gives the model"
    assert "Paris" not in setting.base.tokenizer.decode(trained)


def test_planted_a_prompt_that_generation_cuts_otherwise(monkeypatch):
    real = Tokens.prompt
    monkeypatch.setattr(Tokens, "prompt", lambda self, index: real(self, index)[:-1])
    trained, _, generated = asked_three_times(Setting("messages"))
    assert trained != generated


def test_scores_are_of_the_greedy_answers_and_the_first_metric_is_the_headline():
    setting = Setting("prompt-completion", count=6)
    trainer, start = setting.trainer, random_start(setting.base)
    (score,) = trainer.score([ScoreJob(None, start)])
    limits = Limits(setting.renderer.stops, LENGTH, 6)
    answer = greedy(setting.base, setting.spec, start, setting.tokens.prompt(0), limits)
    text = setting.base.tokenizer.decode(answer, skip_special_tokens=True)
    one = Score(1, generation_sums(setting.metrics, text, [SAID]))
    assert score.examples == 6
    assert score.sums["rouge_l"] == pytest.approx(6 * one.sums["rouge_l"])
    values = trainer.scoring.values(score)
    assert list(values) == ["rouge_l", "exact_match", "loss", "perplexity", "bits_per_byte", "token_accuracy"]
    assert trainer.scoring.headline.name == "rouge_l"
    assert trainer.scoring.fault(score) is None
    answers = trainer.answers(ScoreJob(None, start))
    assert [(one.example, one.text, one.right_answers) for one in answers] == [
        (n, text, (SAID,)) for n in (0, 2, 4, 1, 3, 5)
    ]
    assert answers[0].prompt.strip() == ASKED


def test_nothing_is_generated_twice_for_one_model_and_never_kept_over_a_fit(monkeypatch):
    setting = Setting("prompt-completion", count=6)
    trainer, start, calls = setting.trainer, random_start(setting.base), []

    def counted(base, spec, start, prompts, limits, real=subject.generate):
        calls.append(len(prompts))
        return real(base, spec, start, prompts, limits)

    monkeypatch.setattr(subject, "generate", counted)
    first, second = trainer.score([ScoreJob("c0", start), ScoreJob("c1", start)])
    (whole,) = trainer.score([ScoreJob(None, start)])
    assert calls == [3, 3]
    assert whole.sums["rouge_l"] == pytest.approx(first.sums["rouge_l"] + second.sums["rouge_l"])
    other = random_start(setting.base, seed=5)
    trainer.score([ScoreJob(None, other)])
    assert calls == [3, 3, 3, 3]
    trainer.answers(ScoreJob(None, other))
    trainer.answers(ScoreJob("c1", start))
    assert calls == [3, 3, 3, 3], "both a client's model and the global one are remembered"
    trainer.fit([FitJob("c0", 1, Fit(start, BOTH, duration=Duration(steps=1)))])
    trainer.answers(ScoreJob("c1", start))
    assert calls == [3, 3, 3, 3, 3]


def test_without_metrics_nothing_is_generated():
    setting = Setting("prompt-completion")
    plain = ModelTrainer(
        fastest_forward(setting.base, setting.spec), CausalLM(LENGTH), TrainSettings(), train=setting.tokens,
        test=setting.tokens, owned={}, seed=0, rounds=1,
    )  # fmt: skip
    start = random_start(setting.base)
    (score,) = plain.score([ScoreJob(None, start)])
    assert list(plain.scoring.values(score)) == ["loss", "perplexity", "bits_per_byte", "token_accuracy"]
    assert plain.answers(ScoreJob(None, start)) == []


def test_right_answers_and_stops_come_along_with_the_tokens():
    setting = Setting("messages", count=3)
    some = setting.tokens.take(numpy.array([2, 0]))
    assert some.right_answers == ((SAID,), (SAID,))
    assert some.stops == setting.renderer.stops
    assert some.prompt(1).tolist() == setting.tokens.prompt(0).tolist()


def test_memory_that_runs_out_makes_smaller_batches(monkeypatch):
    setting = Setting("prompt-completion", count=4)
    start, sizes = random_start(setting.base), []

    def narrow(base, spec, start, prompts, limits, real=subject.generate):
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise torch.OutOfMemoryError
        return real(base, spec, start, prompts, limits)

    expected = setting.trainer.answers(ScoreJob("c0", start))
    again = Setting("prompt-completion", count=4)
    monkeypatch.setattr(subject, "generate", narrow)
    with pytest.warns(UserWarning, match="the batch of generated answers is now 1"):
        found = again.trainer.answers(ScoreJob("c0", start))
    assert (found, sizes) == (expected, [2, 1, 1])
