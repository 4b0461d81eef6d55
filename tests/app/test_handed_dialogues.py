"""Examples of language modelling that are handed over in Python, as users of TRL have them."""

import datasets
import pytest

import fedlora
from fedlora.errors import UserError
from fedlora.training.generated.facts import generated_facts

EXAMPLES = generated_facts(40, 10)
SMALL = {"task": "generate", "method": "fedit", "rounds": 1, "clients": 2, "rank": 2, "lr": 5e-3}


def rows(part, **more):
    return [{"prompt": e.prompt, "completion": e.completion, **more} for e in part.examples]


@pytest.fixture
def run(smallest_decoder):
    def call(data, **keys):
        return fedlora.run(data=data, base=smallest_decoder, **{**SMALL, "model": {"max_length": 64}, **keys})

    return call


HANDED = {
    "a table": lambda: datasets.Dataset.from_list(rows(EXAMPLES.train)),
    "a list of rows": lambda: rows(EXAMPLES.train),
    "parts": lambda: {"train": rows(EXAMPLES.train), "test": rows(EXAMPLES.test)},
    "a DatasetDict": lambda: datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_list(rows(EXAMPLES.train)),
            "test": datasets.Dataset.from_list(rows(EXAMPLES.test)),
        }
    ),
    "texts": lambda: [f"{e.prompt}\n{e.completion}" for e in EXAMPLES.train.examples],
}


@pytest.mark.parametrize("name", list(HANDED))
def test_what_a_user_has_is_taken(run, name):
    made = run(HANDED[name]())
    dataset = made.experiment.dataset
    whole = name in ("parts", "a DatasetDict")
    assert (len(dataset.train), len(dataset.test)) == ((40, 10) if whole else (32, 8))
    assert len(made.experiment.split.clients) == 2
    assert (made.experiment.config.split.kind, made.experiment.config.data.source) == ("iid", "python")


def test_a_loaded_model_is_tuned_and_stays_as_it_is(smallest_decoder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smallest_decoder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = fedlora.run(data=rows(EXAMPLES.train), base=model, **SMALL, model={"max_length": 64})
    (record,) = found
    assert record.global_score is not None
    assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())


def test_a_column_names_the_owners(run):
    data = [{**row, "who": f"ward {n % 3}"} for n, row in enumerate(rows(EXAMPLES.train))]

    made = run(data, split={"kind": "natural", "column": "who"})
    assert sorted(made.experiment.split.clients) == ["ward 0", "ward 1", "ward 2"]


WRONG = [
    ([1, 2], "data is a list; expected the path of a file, a name on the hub, fedlora.from_lists"),
    ([], "data has no rows"),
    ([{"a": "b"}] * 10, "which fit no format of examples"),
    ({"train": [{"text": "a cat"}]}, "The data have no part 'test', only train"),
    (fedlora.from_lists(["a", "b"] * 5, [0, 1] * 5), "data holds labelled texts, but model.task is 'generate'"),
]


@pytest.mark.parametrize(("data", "sentence"), WRONG)
def test_what_is_no_example_is_one_sentence(run, data, sentence):
    with pytest.raises(UserError, match=sentence):
        run(data)


def test_the_task_is_a_keyword():
    with pytest.raises(UserError, match=r"model.task is 'write'; input should be 'classify' or 'generate'"):
        fedlora.run(task="write")
