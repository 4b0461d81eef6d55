"""Whatever text labels, clients and notes are made of: there is a page, its parts parse, and it stays small."""

import json
import re
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.report.test_page import write_run

from fedlora.errors import FedloraError
from fedlora.report.page import write_report

MODULES = ["enc.layer.0.query", "enc.layer.1.out"]
DOLLARS = "$100% & $50%"
UNFIT = st.sampled_from("\x00\x1b\r\n\x85\u2028\u202e\u2066\ud800\udfff\ufdd0\ufffe\uffff$\\_^{}<>&|")
ANY_TEXT = st.lists(st.characters() | UNFIT, max_size=30).map("".join)
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def make_run(folder, labels=("no", "yes"), clients=("c0", "c1", "c2"), slots=None):
    """A finished run of LoRA-A2 whose labels, clients and notes are given.

    `slots` is what every client says that it chose, by module.
    """
    write_run(folder, "lora-a2", 0, [0.2, 0.4], notes=True)
    split = json.loads((folder / "split.json").read_text())
    split |= {
        "labels": list(labels),
        "clients": {
            name: {"labels": [3 + k for k in range(len(labels))], "validation": 0, "test": 5} for name in clients
        },
        "left_out_clients": list(clients),
    }
    environment = json.loads((folder / "environment.json").read_text()) | {"modules": MODULES}
    lines = [json.loads(line) for line in (folder / "clients.jsonl").read_text().splitlines()]
    for line in lines:
        line["client"] = clients[int(line["client"][1:])]
        if slots is not None:
            line["notes"]["slots"] = slots
    (folder / "split.json").write_text(json.dumps(split))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order; collects the text outside figures."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "svg" not in self.open:
            self.text.append(data)


def parsed(page_file):
    """The figures of a page as trees; the page itself is looked at as a whole."""
    page = page_file.read_bytes().decode()
    assert FORBIDDEN.search(page) is None
    Balanced(page)
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", page, re.DOTALL)]


def words(figures):
    """Every text that is drawn, and every tip."""
    return [element.text for svg in figures for element in svg.iter() if element.text and element.text.strip()]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.tuples(ANY_TEXT, ANY_TEXT),
    clients=st.lists(ANY_TEXT, min_size=3, max_size=3, unique=True),
    slots=st.dictionaries(
        ANY_TEXT | st.sampled_from(MODULES), st.lists(st.integers() | st.booleans() | ANY_TEXT, max_size=3), max_size=3
    ),
)
@example(labels=(DOLLARS, "$\\frac{"), clients=["a\x00", "\uffff", "\ud800"], slots={"a.².b": [1]})
@example(labels=("\u202egnp.exe", "_"), clients=["שלום", "🙂‍↔️", ""], slots={"": [True], "]]>": [0]})
def test_any_text_gives_a_page_whose_parts_parse(tmp_path_factory, labels, clients, slots):
    run = make_run(tmp_path_factory.mktemp("any") / "run", labels, clients, slots)
    assert len(parsed(write_report([run], run))) >= 8


AS_THEY_ARE = (DOLLARS, "from $5 to $10", "$x$", r"\$", "_private", "<b> & </svg>", "50 % ]]>")


def test_names_are_drawn_as_they_are_written(tmp_path):
    run = make_run(tmp_path / "run", labels=AS_THEY_ARE, clients=AS_THEY_ARE)
    drawn = words(parsed(write_report([run], run)))
    for number, text in enumerate(AS_THEY_ARE):
        assert drawn.count(text) >= 2, text  # as a column of labels and as a row of clients
        assert f"client {text}, {text}: {3 + number}" in drawn


ESCAPED = {
    "a\x00b": r"a\u0000b",
    "a\x85b": r"a\u0085b",
    "two\nlines": r"two\u000alines",
    "\uffff": r"\uffff",
    "half \ud83d": r"half \ud83d",
    "\u202eturned": r"\u202eturned",
}


def test_what_no_page_can_hold_is_shown_as_its_escape(tmp_path):
    run = make_run(tmp_path / "run", labels=tuple(ESCAPED), clients=tuple(ESCAPED))
    page = write_report([run], run)
    drawn = words(parsed(page))
    for number, shown in enumerate(ESCAPED.values()):
        assert f"client {shown}, {shown}: {3 + number}" in drawn
    assert f"without any training example: {', '.join(ESCAPED.values())}." in page.read_text()


def test_letters_of_other_scripts_stay(tmp_path):
    run = make_run(tmp_path / "run", labels=("שלום", "日本語"), clients=("مرحبا", "🙂", "č"))
    drawn = words(parsed(write_report([run], run)))
    assert {"client مرحبا, שלום: 3", "client 🙂, 日本語: 4"} <= set(drawn)


def test_very_long_names_are_cut_in_figures_and_tips(tmp_path):
    long = "the first words " + 100_000 * "x" + " the last"
    run = make_run(tmp_path / "run", labels=(long, "other"), clients=(long, "c1", "c2"))
    page = write_report([run], run)
    assert page.stat().st_size < 500_000
    drawn = words(parsed(page))
    assert any(own.startswith("the first words") and own.endswith("the last") and len(own) <= 30 for own in drawn)
    assert max(map(len, drawn)) <= 300


NOBODY_KNOWS = {"a.².b": [1], f"layer.{4400 * '7'}.query": [0], "layer.0.other": [0]}


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"enc.layer.0.query": []},
        {"enc.layer.0.query": [True, False]},
        {"enc.layer.0.query": [1.5, "x", None, [2]]},
        {"enc.layer.0.query": {"0": 1}},
        NOBODY_KNOWS,
        "all of them",
        7,
    ],
    ids=str,
)
def test_choices_that_make_no_sense_are_no_figure(tmp_path, slots):
    run = make_run(tmp_path / "run", slots=slots)
    page = write_report([run], run)
    assert len(parsed(page)) == 8
    assert "chosen slots of B" not in page.read_text()


def test_senseless_choices_beside_good_ones_are_left_out(tmp_path):
    good = {"enc.layer.0.query": [0, 2], "enc.layer.1.out": [1, 1, 1]}
    run = make_run(tmp_path / "run", slots=NOBODY_KNOWS | good)
    drawn = words(parsed(write_report([run], run)))
    told = [own for own in drawn if "slots a client" in own]
    assert sorted(set(told)) == ["layer 0, query: 2.0 slots a client", "layer 1, out: 1.0 slots a client"]


def test_fifty_thousand_module_names_cost_nothing(tmp_path):
    run = make_run(tmp_path / "run", slots={f"layer.{number}.query": [0] for number in range(50_000)})
    before = time.monotonic()
    page = write_report([run], run)
    assert time.monotonic() - before < 20
    assert page.stat().st_size < 500_000


def test_an_unfit_name_in_the_config_is_shown_as_its_escape(tmp_path):
    run = make_run(tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace('"generated"', '"files"\npath = "a\uffffb|c"'), encoding="utf-8")
    page = write_report([run], run)
    parsed(page)
    assert "path = &#34;a\\uffffb|c&#34;\n" in page.read_text()


def test_a_bar_in_a_name_stays_in_its_cell(tmp_path):
    for number, name in enumerate(("a|b", "c")):
        run = make_run(tmp_path / "runs" / str(number))
        config = run / "config.toml"
        config.write_text(config.read_text().replace('"shared"', f'"shared"\ntargets = ["{name}"]'), encoding="utf-8")
    write_report([tmp_path / "runs"], tmp_path / "page")
    lines = [line for line in (tmp_path / "page" / "table.md").read_text().splitlines() if line.startswith("|")]
    assert len([line for line in lines if line.startswith("| lora")]) == 2
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_a_folder_whose_rounds_are_none_is_no_run(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "rounds.jsonl").write_text('{"round": 1, "glo')
    with pytest.raises(FedloraError, match="holds no run with a finished round"):
        write_report([run], run)


def test_a_damaged_run_is_one_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    whole = (run / "split.json").read_text()
    for damaged in ("[" * 100_000, whole[:30], '{"labels": [1' + 5000 * "1" + "]}", "{}", "[]"):
        (run / "split.json").write_text(damaged)
        with pytest.raises(FedloraError) as caught:
            write_report([run], run)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_page_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "report.html").mkdir()
    with pytest.raises(FedloraError, match=r"The page in .*run could not be made \(IsADirectoryError: "):
        write_report([run], run)
    assert list(run.glob(".*")) == []
