"""Nobody above the tasks knows what an accuracy is, and below them nobody knows a label; the fence can fail.

Names, attributes and texts of the source are looked at, comments and docstrings are not.
"""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fedlora"
METRIC = re.compile(r"accurac|(^|_)correct($|_|s$)|\bcorrect\b|(^|_|\b)f1($|_|\b)|perplexity", re.IGNORECASE)
LABEL = re.compile(r"(^|_|\b)labels?($|_|\b)", re.IGNORECASE)

KNOWS_METRICS = {
    "training/tasks": "the tasks themselves",
    "training/metrics": "what the task of language modelling is scored by",
    "report/task.py": "what folders from before tasks described themselves had measured",
}
KNOWS_NO_LABEL = ("core", "methods", "federation", "laws", "training/loop.py", "training/client_fit.py",
                  "training/forward/current_pass.py", "training/bases/maps.py", "training/batches.py", "training/forward")  # fmt: skip
NAMES_LABELS = {
    "federation/same_run.py": "the key of split.json under which a run's label names stand",
}


def words(source):
    """Every name, attribute, argument and text of a file, f-strings included, but for its docstrings."""
    tree = ast.parse(source)
    blocks = (getattr(node, "body", None) for node in ast.walk(tree))
    lines = (line for block in blocks if isinstance(block, list) for line in block)
    docstrings = {id(line.value) for line in lines if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def known(pattern, source):
    return [word for word in words(source) if pattern.search(word)]


def files(folders):
    for folder in folders:
        place = SOURCE / folder
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def name_of(file):
    return file.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=name_of)
def test_only_a_task_knows_its_metrics(file):
    if not any(name_of(file).startswith(place) for place in KNOWS_METRICS):
        assert known(METRIC, file.read_text()) == []


@pytest.mark.parametrize("file", list(files(KNOWS_NO_LABEL)), ids=name_of)
def test_the_loop_and_all_below_the_tasks_know_no_label(file):
    if name_of(file) not in NAMES_LABELS:
        assert known(LABEL, file.read_text()) == []


@pytest.mark.parametrize(
    ("pattern", "source"),
    [
        (METRIC, "score.accuracy"),
        (METRIC, "summary['global']['accuracy']"),
        (METRIC, "def mean_accuracy(x): ..."),
        (METRIC, "Score(examples=3, correct=2)"),
        (METRIC, "f'{x} accuracy'"),
        (METRIC, "axes.set_ylabel('accuracy, %')"),
        (METRIC, "sums['macro_f1']"),
        (LABEL, "tokens.labels[examples]"),
        (LABEL, "def fit(label_permutation): ..."),
        (LABEL, "line['labels']"),
    ],
)
def test_the_fence_can_fail(pattern, source):
    assert known(pattern, source)


@pytest.mark.parametrize(
    "source", ['"""The accuracy of a label."""', "def corrected(self): ...", "correction(product)", "x = 1  # accuracy"]
)
def test_the_fence_lets_other_words_pass(source):
    assert known(METRIC, source) == []


def test_every_exception_of_the_fence_is_needed():
    for place in KNOWS_METRICS:
        assert any(known(METRIC, file.read_text()) for file in files([place]))


def test_hooks_of_a_model_share_one_thread_local_context():
    """Adapters, attention groups and recorded layers are fields of one pass, not three side channels."""
    users = [name_of(file) for file in files(["training"]) if "local" in set(words(file.read_text()))]
    assert users == ["training/forward/current_pass.py"]
