"""Scores of generations: parts add up to what sacrebleu and rouge-score say of the whole; GSM8K as lm-eval reads it."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlora.core.metrics import Metric, Score, mean_of
from fedlora.errors import ConfigError
from fedlora.training.metrics import intervals
from fedlora.training.metrics.answer import answer_scoring
from fedlora.training.metrics.exact import exact_match, flexible_number, gsm8k_flexible, gsm8k_strict, strict_number
from fedlora.training.metrics.generation import generation_metrics, generation_sums
from fedlora.training.metrics.intervals import bootstrap, mean_bootstrap, paired_bootstrap, wilson
from fedlora.training.metrics.ngrams import bleu_signature, chrf_signature
from fedlora.training.metrics.rouge import rouge_l, rouge_signature, unicode_words

ALL = ("bleu", "chrf", "rouge_l", "exact_match", "gsm8k_strict", "gsm8k_flexible")
sentences = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "mat.", "Ärger", "中文", "42,", "(a)"]), max_size=9
).map(" ".join)
examples = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6)


def whole(metrics, pairs):
    return sum((Score(1, generation_sums(metrics, text, answers)) for text, answers in pairs), Score(0))


def columns(pairs):
    """References as sacrebleu takes them: one list a position, None where an example has fewer."""
    most = max(len(answers) for _, answers in pairs)
    return [[answers[n] if n < len(answers) else None for _, answers in pairs] for n in range(most)]


@settings(max_examples=200)
@given(pairs=examples)
def test_bleu_and_chrf_of_parts_add_up_to_sacrebleus_corpus_score(pairs):
    import sacrebleu

    metrics = generation_metrics(["bleu", "chrf"])
    values = answer_scoring(metrics).values(whole(metrics, pairs))
    texts = [text for text, _ in pairs]
    assert values["bleu"] * 100 == pytest.approx(sacrebleu.BLEU().corpus_score(texts, columns(pairs)).score, abs=1e-12)
    assert values["chrf"] * 100 == pytest.approx(sacrebleu.CHRF().corpus_score(texts, columns(pairs)).score, abs=1e-9)


def test_the_mean_of_sentence_scores_is_another_number():
    import sacrebleu

    pairs = [("the cat sat on the mat", ["the cat sat on the mat"]), ("a dog", ["the dog barked at the cat"])]
    metrics = generation_metrics(["bleu"])
    each = [metrics[0].metric.of(whole(metrics, [pair])) for pair in pairs]
    corpus = sacrebleu.BLEU().corpus_score([text for text, _ in pairs], columns(pairs)).score / 100
    assert sum(each) / 2 != pytest.approx(corpus, abs=0.01)


@settings(max_examples=100)
@given(pairs=examples, cut=st.integers(0, 6))
def test_scores_of_parts_add_up(pairs, cut):
    metrics = generation_metrics(ALL)
    scoring = answer_scoring(metrics)
    parts = whole(metrics, pairs[:cut]) + whole(metrics, pairs[cut:])
    assert scoring.values(parts) == pytest.approx(scoring.values(whole(metrics, pairs)), abs=1e-12)
    assert scoring.fault(parts) is None
    assert all(0 <= value <= 1 + 1e-12 for value in scoring.values(parts).values())


def test_a_perfect_generation():
    metrics = generation_metrics(ALL)
    answer = "She makes 9 * 2 = $18 every day.\n#### 18"
    values = answer_scoring(metrics).values(whole(metrics, [(answer, ["no", answer])]))
    assert values == pytest.approx(dict.fromkeys(ALL, 1.0))


def test_the_right_number_of_answers_is_in_sacrebleus_signature():
    assert "nrefs:1|" in bleu_signature("13a", 1)
    assert "nrefs:3|" in chrf_signature(3)
    assert "nrefs:var|" in bleu_signature("13a", None)
    assert "tok:char" in bleu_signature("char", None)
    (metric,) = generation_metrics(["bleu"], references=2)
    assert metric.signature.startswith("BLEU|nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")


# ROUGE-L


@settings(max_examples=100)
@given(text=st.text(st.characters(codec="ascii"), max_size=30))
def test_unicode_words_are_rouge_scores_words_in_ascii(text):
    from rouge_score.tokenizers import DefaultTokenizer

    assert unicode_words(text) == DefaultTokenizer().tokenize(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Größe, café!", ["größe", "café"]),
        ("cafe\u0301", ["café"]),
        ("Привет мир", ["привет", "мир"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("我爱 cats。", ["我", "爱", "cats"]),
        ("abc我def", ["abc", "我", "def"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("", []),
    ],
)
def test_words_of_all_scripts(text, words):
    assert unicode_words(text) == words


def test_rouge_scores_own_tokenizer_gives_nothing_for_other_scripts_and_the_signature_tells_which_is_used():
    assert rouge_l("ascii", "привет мир", ["привет мир"]) == 0
    assert rouge_l("unicode", "привет мир", ["привет мир"]) == 1
    assert "tok:unicode" in rouge_signature("unicode")
    assert "tok:rouge-score" in rouge_signature("ascii")


def test_rouge_l_takes_the_best_of_the_right_answers():
    from rouge_score.rouge_scorer import RougeScorer

    answers = ["a dog ran", "the cat sat on the mat", "cat"]
    scorer = RougeScorer(["rougeL"])
    expected = max(scorer.score(answer, "the cat on a mat")["rougeL"].fmeasure for answer in answers)
    assert rouge_l("unicode", "the cat on a mat", answers) == expected == rouge_l("ascii", "the cat on a mat", answers)


# Whole answers


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("9 * 2 = 18\n#### 18", "18", "18"),
        ("#### 1,000.50", "1,000.50", "1,000.50"),
        ("#### -3 and then #### 4", "-3", "4"),
        ("The answer is $1,234.", "[invalid]", "$1,234."),
        ("It is 7", "[invalid]", "7"),
        ("It is 7.", "[invalid]", "7."),
        ("no number", "[invalid]", "[invalid]"),
        ("####18", "[invalid]", "18"),
        ("it costs -5 dollars ... maybe", "[invalid]", "..."),
    ],
)
def test_gsm8ks_numbers_as_lm_eval_extracts_them(text, strict, flexible):
    assert (strict_number(text), flexible_number(text)) == (strict, flexible)


GOLD = ["He has 1000 + 200 = <<1000+200=1200>>1200 dollars.\n#### 1,200"]


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("so\n#### 1200", True, True),
        ("so\n#### $1,200.", False, True),  # the strict pattern knows no currency
        ("#### 1,200. Question: 7", True, False),
        ("The answer is $1,200.", False, True),
        ("The answer is 1200.00", False, False),
        ("#### 120", False, False),
        ("", False, False),
    ],
)
def test_gsm8k(text, strict, flexible):
    assert (gsm8k_strict(text, GOLD), gsm8k_flexible(text, GOLD)) == (strict, flexible)


def test_exact_match_strips_white_space_and_nothing_else():
    assert exact_match(" Paris\n", ["Rome", "Paris"])
    assert not exact_match("paris", ["Paris"])
    assert not exact_match("Paris.", ["Paris"])


# Names and packages


def test_an_unknown_metric_is_told():
    with pytest.raises(ConfigError, match=r"evaluate\.metrics names 'blue'.*did you mean 'bleu'"):
        generation_metrics(["blue"])


@pytest.mark.parametrize(
    ("name", "package"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge_l", "rouge-score")]
)
def test_a_package_that_is_absent_is_told_before_a_run(name, package, monkeypatch):
    from fedlora.training.metrics import ngrams, rouge

    ngrams._bleu.cache_clear()
    rouge._scorer.cache_clear()
    for module in ("sacrebleu.metrics.bleu", "sacrebleu.metrics.chrf", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}, .*pip install 'fedlora\[generate\]'"):
        generation_metrics([name])


# Intervals

MEAN = Metric("share", True, lambda sums: sums.get("hit", 0) / sums["examples"])


def each(hits, count):
    return [{"hit": int(n < hits)} for n in range(count)]


def test_wilson_is_the_textbooks_interval():
    found = wilson(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.490162, 0.943317), abs=1e-5)
    assert (wilson(0, 10).low, wilson(10, 10).high) == (0.0, 1.0)
    assert wilson(10, 10).low == pytest.approx(0.722467, abs=1e-5)
    assert wilson(0, 0) is None


def test_the_bootstrap_of_a_mean_has_the_width_that_its_standard_error_says():
    found = bootstrap(MEAN, each(150, 500), resamples=4000)
    half = 1.96 * (0.3 * 0.7 / 500) ** 0.5
    assert found.value == 0.3
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(0.3, abs=0.004)


def test_a_bootstrap_depends_on_its_seed_alone():
    assert bootstrap(MEAN, each(3, 20), 1) == bootstrap(MEAN, each(3, 20), 1)
    assert bootstrap(MEAN, each(77, 503), 1) != bootstrap(MEAN, each(77, 503), 2)
    assert bootstrap(MEAN, each(1, 1)) is None


def test_pairing_takes_the_difficulty_of_the_examples_out():
    """One model is right where the other is, and on one example in ten more: every draw sees that."""
    theirs = [{"hit": n % 2} for n in range(200)]
    ours = [{"hit": n % 2 or int(n % 10 == 0)} for n in range(200)]
    paired = paired_bootstrap(MEAN, ours, theirs)
    apart = bootstrap(MEAN, ours), bootstrap(MEAN, theirs)
    assert paired.value == pytest.approx(0.1)
    assert paired.low > 0
    assert apart[0].low < apart[1].high, "unpaired intervals overlap"
    assert paired.high - paired.low < apart[0].high - apart[0].low
    with pytest.raises(ValueError, match="same examples"):
        paired_bootstrap(MEAN, ours, theirs[1:])


def test_planted_a_pairing_that_draws_each_side_apart():
    theirs = [{"hit": n % 2} for n in range(200)]
    ours = [{"hit": n % 2 or int(n % 10 == 0)} for n in range(200)]
    right = paired_bootstrap(MEAN, ours, theirs)
    one, other = (intervals._matrix(side)[1][:, 0] for side in (ours, theirs))
    differences = [
        (a @ one - b @ other) / 200
        for a, b in zip(intervals._draws(200, 1, 1000), intervals._draws(200, 2, 1000), strict=True)
    ]
    low, high = sorted(differences)[25], sorted(differences)[-25]
    assert high - low > 1.5 * (right.high - right.low)


def test_intervals_of_generation_scores():
    metrics = generation_metrics(["exact_match", "bleu"])
    pairs = [("the cat sat on the mat", ["the cat sat on a mat"])] * 5 + [
        ("a dog ran off today", ["a dog ran off today"])
    ]
    sums = [generation_sums(metrics, *pair) for pair in pairs]
    share, score = (metric.interval(sums) for metric in metrics)
    assert share == wilson(1, 6)
    assert score.low < score.value < score.high
    assert "bootstrap" in score.name


def test_the_mean_over_groups_has_an_interval_by_drawing_within_each_group():
    """Two groups apart from each other, steady inside: examples drawn from all would give a wide interval."""
    metric = Metric("share", True, mean_of("share"))
    groups = [[{"share": 0.1 + n / 1000} for n in range(20)], [{"share": 0.9 + n / 1000} for n in range(5)]]
    found = mean_bootstrap(metric, groups)
    assert found.value == pytest.approx((0.1095 + 0.902) / 2)
    assert found.value - 0.003 < found.low < found.value < found.high < found.value + 0.003
    assert mean_bootstrap(metric, groups) == found
    pooled = bootstrap(metric, [sums for group in groups for sums in group])
    assert pooled.high - pooled.low > 0.1
    assert mean_bootstrap(metric, [[{"share": 0}] * 9, [{}]]) is None, "every draw gives 0"
    assert mean_bootstrap(metric, [[{"share": 1}]]) is None
