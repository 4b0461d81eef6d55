"""Sites that tune a language model: the bits of the simulation, one rendering for all, and no text that leaves."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from chats import MARKED
from tests.deploy.conftest import RANKS, World, thread_site
from tests.deploy.direct import DirectConnection
from tests.deploy.test_agreement import agree
from tests.text_data import LENGTH, rows, write_decoder, write_rows

from fedlora.app.build.simulation import load
from fedlora.app.config.schema import make_config
from fedlora.deploy.config import build_site, difference, read_site, shared_part
from fedlora.deploy.server import run_server
from fedlora.deploy.site import Site
from fedlora.deploy.sockets import read_key
from fedlora.errors import FedloraError
from fedlora.methods import BUILT_IN
from fedlora.run_files import read_lines, read_object

METRICS = {"loss", "perplexity", "bits_per_byte", "token_accuracy"}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def text_world(decoder, tmp_path):
    """Writes the files of a federation of three sites on one tiny decoder."""

    def write(method, folder=tmp_path, evaluate=None, test=None, **site):
        tested = test or rows(15, 5)
        ranks = RANKS if BUILT_IN[method]().facts.mixed_ranks else dict.fromkeys(RANKS, 4)
        everything = folder / "all"
        write_rows(everything / "train.jsonl", rows(42))
        write_rows(everything / "test.jsonl", tested)
        common = {
            "run": {"rounds": 2, "name": "grove"},
            "model": {"base": str(decoder), "task": "generate", "max_length": LENGTH},
            "adapter": {"rank": 4},
            "train": {"lr": 2e-2, "batch_size": 4},
            "method": {"name": method},
            **({"evaluate": evaluate} if evaluate else {}),
        }
        data = {"source": "files", "path": str(everything), "label": "kind"}
        simulated = {
            **common,
            "data": data,
            "split": {"kind": "natural", "column": "site"},
            "clients": {"ranks": list(ranks.values())},
        }
        shared = {**common, "deploy": {"sites": 3, "wait": 60.0, "deadline": 60.0}}
        made = World(folder, simulated, shared)
        (folder / "federation.toml").write_text(tomli_w.dumps(shared))
        own = load(make_config(simulated))
        for name in RANKS:
            home, owned = folder / "sites" / name, own.split.clients[name]
            for part, table, mine in (("train", rows(42), owned.train), ("test", tested, owned.test)):
                write_rows(home / "data" / f"{part}.jsonl", [table[i] for i in mine.tolist()])
            section = {"name": name, "shared": "../../federation.toml", "rank": ranks[name], **site}
            made.site(name).write_text(tomli_w.dumps({"site": section, "data": {"path": "data"}}))
        return made

    return write


@pytest.mark.parametrize("method", ["fedit", "fedsa", "lora-a2", "full"])
def test_simulation_is_sites_behind_sockets(text_world, threads, tmp_path, capsys, method):
    own = text_world(method)
    own.simulate(tmp_path / "simulated")
    threads(own)
    own.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")
    said = capsys.readouterr().out
    assert "scored on" in said
    assert "loss " in said.partition("scored on")[2].splitlines()[0], "the site's log shows the headline"
    summary = read_object(tmp_path / "deployed" / "summary.json")
    assert METRICS - {"loss"} <= summary["personal"].keys()
    assert "labels" not in summary
    assert (tmp_path / "deployed" / "report.html").is_file()


def with_choices(found):
    """Rows with choices of unequal lengths, the right one among them."""
    return [{**row, "choices": ["The", row["completion"], "The cat is black, I think."][n % 2 :]} for n, row in found]


@pytest.mark.parametrize("method", ["fedit", "fedsa"])
def test_sites_score_answers_as_the_simulation_does(text_world, threads, tmp_path, capsys, method):
    """Generated and chosen ones: the same sums of every site in every round, and the server's own set by its file."""
    metrics = ["choice_per_byte", "choice", "chrf"]
    tested = with_choices(enumerate(rows(15, 5)))
    own = text_world(method, evaluate={"metrics": metrics, "most_new_tokens": 4}, test=tested)
    own.simulate(tmp_path / "simulated")
    deploy = {**own.shared["deploy"], "test": str(write_rows(tmp_path / "server.jsonl", tested))}
    own = replace(own, shared={**own.shared, "deploy": deploy})
    (own.folder / "federation.toml").write_text(tomli_w.dumps(own.shared))
    threads(own)
    own.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")
    here, there = (read_lines(tmp_path / name / "rounds.jsonl") for name in ("simulated", "deployed"))
    for one, other in zip(here, there, strict=True):
        for name in ("mean", "weighted_mean", "choice", "chrf", "loss"):
            assert one["personal"][name] == other["personal"][name], name
        if method == "fedit":
            for name in metrics:
                assert one["global"][name] == pytest.approx(other["global"][name], abs=1e-9), name
    assert "choice_per_byte " in capsys.readouterr().out.partition("scored on")[2].splitlines()[0]
    summary = read_object(tmp_path / "deployed" / "summary.json")
    lines = read_lines(tmp_path / "deployed" / "generations.jsonl")
    if method == "fedit":
        low, high = summary["intervals"]["global"]["choice"]
        assert low <= summary["global"]["choice"] <= high
        assert [line["chosen"] in line["answers"] for line in lines] == [bool(line["sums"]["choice"]) for line in lines]
        assert len(lines) == 15
    else:
        assert lines == [], "the server has no model to ask, and sites tell no answers"


def test_a_site_without_choices_is_told_before_it_joins(text_world):
    own = text_world("fedit", evaluate={"metrics": ["choice"]}, test=with_choices(enumerate(rows(15, 5))))
    home = own.site("ash").parent
    found = read_lines(home / "data" / "test.jsonl")
    write_rows(home / "data" / "test.jsonl", [{**row, "choices": None} for row in found])
    with pytest.raises(FedloraError, match="row 1 of the test part has no column 'choices' with the texts to choose"):
        build_site(read_site(own.site("ash")))


def test_a_site_that_would_score_otherwise_is_refused(text_world):
    own = text_world("fedit", evaluate={"metrics": ["choice"]}, test=with_choices(enumerate(rows(15, 5))))
    given = changed_site(own, "ash", {**own.shared, "evaluate": {"metrics": ["choice_per_byte"]}})
    site = build_site(given)
    said = difference(shared_part(own.config, site.base), shared_part(site.config, site.base), "ash")
    assert 'evaluate.metrics is ["choice_per_byte"] at site ash and ["choice"] at the server' in said


def test_a_site_keeps_an_adapter_with_tokenizer_and_template(text_world, threads, tmp_path):
    from transformers import AutoTokenizer

    own = text_world("fedsa")
    threads(own)
    own.deploy(tmp_path / "deployed")
    (kept,) = (own.folder / "sites" / "ash" / "private").glob("grove-*/adapter")
    assert AutoTokenizer.from_pretrained(kept).chat_template == MARKED["chatml, marked"]
    assert "AutoModelForCausalLM" in (kept / "README.md").read_text()


def test_no_text_of_a_site_is_in_what_it_answers(text_world, tmp_path, monkeypatch):
    """Every byte that sites send, in two rounds with scores: tensors and numbers, and nothing of what is written."""
    own, answers = text_world("lora-a2"), []
    plain = Site.answer

    def noted(self, data):
        answers.append(plain(self, data))
        return answers[-1]

    monkeypatch.setattr(Site, "answer", noted)
    started = [thread_site(path) for path in own.sites()]
    for site in started:
        site.__enter__()
    try:
        own.deploy(tmp_path / "deployed")
    finally:
        for site in started:
            site.__exit__(None, None, None)
    assert len(answers) >= 3 * (1 + 2 + 2)
    words = {word.strip(".,").encode() for row in rows(57) for word in f"{row['prompt']} {row['completion']}".split()}
    for word in words:
        assert not any(word in answer for answer in answers if len(word) > 3), word


def changed_site(own, name, shared):
    """A site whose shared file differs from the others'."""
    home = own.site(name).parent
    (home / "other.toml").write_text(tomli_w.dumps(shared))
    own.site(name).write_text(own.site(name).read_text().replace("../../federation.toml", "other.toml"))
    return read_site(own.site(name))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"separator": " "}, 'data.separator is " " at site ash and "\\n" at the server: give both the same.'),
        ({"style": "chat"}, 'data.style is "chat" at site ash and "auto" at the server: give both the same.'),
        ({"truncate": "end"}, 'data.truncate is "end" at site ash and "prompt_start" at the server'),
    ],
)
def test_a_site_that_renders_differently_is_refused(text_world, data, sentence):
    own = text_world("fedit")
    given = changed_site(own, "ash", {**own.shared, "data": data})
    site = build_site(given)
    server = shared_part(own.config, site.base)
    assert sentence in difference(server, shared_part(site.config, site.base), "ash")


def test_a_site_with_another_template_is_refused_by_the_server(text_world, threads, tmp_path, decoder):
    own = text_world("fedit")
    other = shutil.copytree(decoder, tmp_path / "other-base")
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text(template.replace("<|im_start|>assistant", "<|im_start|>helper"))
    ash = own.site("ash")
    ash.write_text(ash.read_text().replace('name = "ash"', f'name = "ash"\nbase = "{other}"'))
    threads(own)
    told = []
    sites = {site.site.address: read_key(Path(site.site.key)) for site in map(read_site, own.sites())}
    config = make_config({**own.shared, "deploy": {"sites": 3, "wait": 5.0, "deadline": 60.0}})
    with pytest.raises(FedloraError):
        list(run_server(config, DirectConnection(sites), tmp_path / "deployed", tell=told.append))
    (refusal,) = {line for line in told if "chat template" in line}
    assert "at site ash" in refusal
    assert "helper" in refusal, "the sentence shows where the two differ"
    assert "give both the same" in refusal


def test_a_site_names_its_columns(text_world, threads, tmp_path):
    own = text_world("fedit")
    home = own.site("ash").parent
    for part in ("train", "test"):
        found = read_lines(home / "data" / f"{part}.jsonl")
        write_rows(home / "data" / f"{part}.jsonl", [{"q": row["prompt"], "a": row["completion"]} for row in found])
    own.simulate(tmp_path / "simulated")
    text = own.site("ash").read_text()
    own.site("ash").write_text(text + 'format = "prompt-completion"\nprompt = "q"\ncompletion = "a"\n')
    threads(own)
    own.deploy(tmp_path / "deployed")
    agree(tmp_path / "simulated", tmp_path / "deployed")


def test_sites_tell_sums_that_can_be_and_no_others(decoder):
    from fedlora.core.metrics import Score
    from fedlora.training.metrics.predicted import prediction_scoring

    scoring = prediction_scoring(64)
    right = {"loss": 12.5, "tokens": 9, "hits": 2, "bytes": 31}
    assert scoring.fault(Score(2, right)) is None
    for wrong in ({"loss": -1.0}, {"tokens": 129}, {"hits": -1}, {"bytes": -1}, {"loss": float("nan")}, {"text": 1}):
        assert scoring.fault(Score(2, {**right, **wrong})), wrong
