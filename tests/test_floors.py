"""A file imports only what stands below it, and the fence can fail.

Every floor's own imports and its permitted third parties, read from the source of every file, imports
inside functions included.
"""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "fedlora"

BELOW = {
    "errors": set(),
    "run_files": {"errors"},
    "core": {"errors"},
    "methods": {"core", "errors"},
    "training": {"core", "errors"},
    "federation": {"run_files", "methods", "core", "errors"},
    "laws": {"run_files", "federation", "methods", "core", "errors"},
    "report": {"run_files", "errors"},
    "statistics": set(),
    "app": {"run_files", "laws", "report", "statistics", "federation", "training", "methods", "core", "errors"},
    "deploy": {"run_files", "app", "federation", "training", "methods", "core", "errors"},
    "flower": {"run_files", "deploy", "app", "federation", "methods", "core", "errors"},
    "cli": {"run_files", "deploy", "app", "report", "laws", "federation", "training", "methods", "core", "errors"},
    "__main__": {"cli"},
    "__init__": {"run_files", "app", "federation", "training", "methods", "core", "errors"},
}
THIRD_PARTIES = {
    "errors": set(),
    "run_files": set(),
    "core": {"torch", "numpy", "safetensors"},
    "methods": {"torch"},
    "training": {
        "torch", "numpy", "safetensors", "transformers", "datasets", "peft", "tokenizers", "pyarrow",
        "sacrebleu",
    },
    "federation": {"torch"},
    "laws": {"torch", "hypothesis"},
    "report": {"jinja2", "matplotlib"},
    "statistics": {"numpy", "scipy"},
    "app": {"torch", "pydantic", "tomli_w", "rich", "transformers", "datasets", "pandas"},
    "deploy": {"torch", "numpy", "pydantic"},
    "flower": {"flwr"},
    "cli": {"typer"},
    "__main__": set(),
    "__init__": set(),
}  # fmt: skip


def floor_of(file):
    """The first folder, or the file that stands alone; Flower's folder is a floor of its own above deploy."""
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return "flower" if parts[:2] == ("deploy", "flower") else parts[0]


def imports(source):
    """The full names of everything that a file imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide floors"
            yield node.module


def violations(floor, source):
    """What a file on a floor imports and should not."""
    for name in imports(source):
        top, _, rest = name.partition(".")
        if top == "fedlora":
            other = "flower" if rest.startswith("deploy.flower") else rest.partition(".")[0]
            if other != floor and other not in BELOW[floor]:
                yield name
        elif top not in sys.stdlib_module_names and top not in THIRD_PARTIES[floor]:
            yield name


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_a_file_imports_only_what_stands_below_it(file):
    assert list(violations(floor_of(file), file.read_text())) == []


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("errors", "import torch"),
        ("core", "from fedlora.methods.base import Method"),
        ("core", "def f():\n    import transformers"),
        ("methods", "from fedlora.training.data.labelled import Texts"),
        ("methods", "from fedlora.federation.server import federate"),
        ("training", "from fedlora.methods import find_method"),
        ("federation", "from fedlora.training.loop import ModelTrainer"),
        ("federation", "import flwr"),
        ("report", "from fedlora.core.adapter import Adapter"),
        ("laws", "from fedlora.training.bases.model import Base"),
        ("app", "import flwr"),
        ("deploy", "import flwr"),
        ("deploy", "from fedlora.deploy.flower.carrier import GridConnection"),
        ("cli", "import torch"),
    ],
)
def test_the_fence_can_fail(floor, source):
    assert len(list(violations(floor, source))) == 1


def test_no_circle_between_floors():
    assert not any(floor in BELOW[other] for floor in BELOW for other in BELOW[floor] if other in BELOW)


def test_files_stay_readable():
    """Depth at most two; no file above about 300 lines; half of them below 150."""
    files = sorted(SOURCE.rglob("*.py"))
    lengths = {file: len(file.read_text().splitlines()) for file in files}
    assert max(len(file.relative_to(SOURCE).parts) for file in files) <= 3
    assert max(lengths.values()) <= 300, max(lengths, key=lengths.get)
    assert sorted(lengths.values())[len(lengths) // 2] <= 150


def test_every_floor_is_fenced():
    assert {floor_of(file) for file in SOURCE.rglob("*.py")} <= set(BELOW)
