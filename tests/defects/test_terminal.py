"""What the command line shows: nothing is cut, nothing is unsaid, and what takes long says so before."""

import csv
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from tests import warm

PROGRAM = "import sys; from fedlora import cli; sys.argv[0] = 'fedlora'; cli.main()"


def on_terminal(*words, columns):
    """What the command line prints on a terminal of so many columns."""
    master, slave = pty.openpty()
    process = warm.start(*words, stdin=slave, stdout=slave, stderr=slave, COLUMNS=str(columns), TERM="dumb")
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # Linux says so where the other side is closed
            break
        if not part:
            break
        said += part
    os.close(master)
    assert process.wait(60) == 0, said.decode()
    return said.decode().replace("\r\n", "\n")


def table_of(folder):
    with (folder / "table.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def compared(config, fedlora, tmp_path):
    """Compares methods on the small data; returns what was said and the folder."""

    def call(methods, *words, **sections):
        out = tmp_path / "compared"
        code, said, err = fedlora("compare", config(**sections), "--methods", methods, "--out", out, *words)
        assert code == 0, err
        return said, out

    return call


@pytest.mark.defect("R6")
def test_a_comparison_says_which_rows_are_equal_and_why(compared):
    said, out = compared("replicate,fedit,ffa")
    page, table = (out / "report.html").read_text(), (out / "table.md").read_text()
    for text in (" ".join(said.split()), " ".join(page.split()), table):
        assert "replicate and fedit have equal losses and scores in every round: every client has rank 2" in text
    assert "ffa have equal" not in table


@pytest.mark.defect("R6")
def test_rows_that_differ_have_no_such_note(compared):
    _, out = compared("replicate,zeropad,fedit", clients={"ranks": [1, 3]})
    assert "have equal losses" not in (out / "table.md").read_text()
    _, out = compared("replicate,fedit", clients={"ranks": [2, 2]}, run={"rounds": 1, "seed": 3})
    assert "replicate and fedit have equal" in (out / "table.md").read_text()


@pytest.mark.defect("R7")
def test_steps_and_the_rate_of_b_stand_beside_the_scores(compared):
    said, out = compared("lora-a2,fedit")
    table = table_of(out)
    for method, fits in (("lora-a2", 2), ("fedit", 1)):
        run = out / method / "seed-0"
        members = lines_of(run / "clients.jsonl")
        expected = sum(fits * -(-line["examples"] // 16) for line in members if line["status"] == "accepted")
        assert float(table[method]["steps"]) == expected
        assert sum(line["steps"] for line in members) == expected
        assert json.loads((run / "summary.json").read_text())["steps"] == expected
    assert (float(table["lora-a2"]["lr_of_b"]), float(table["fedit"]["lr_of_b"])) == (0.025, 0.005)
    shown = {line.split()[0]: line for line in said.splitlines() if line.startswith(("lora-a2 ", "fedit "))}
    assert "0.025" in shown["lora-a2"].split()
    assert str(int(float(table["lora-a2"]["steps"]))) in shown["lora-a2"].split()
    head = (out / "report.html").read_text().partition("<thead>")[2].partition("</thead>")[0]
    assert "steps" in head
    assert "lr of B" in head


@pytest.mark.defect("R8")
def test_making_the_generated_base_is_said_before(tmp_path):
    """The process is ended while it makes the base: by then it must have said so."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    line = [sys.executable, "-c", PROGRAM, "run", "--out", str(tmp_path / "out"), "--set", "run.rounds=1"]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env) as process:
        stopper = subprocess.Popen(["sh", "-c", f"sleep 60; kill {process.pid}"])
        first = process.stderr.readline()
        process.kill()
        stopper.kill()
        stopper.wait()
    assert re.search("making the generated base, once; this takes .* minutes", first), first


@pytest.mark.defect("R9")
def test_a_table_keeps_its_figures_at_80_columns_and_when_piped(config, fedlora, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom fedlora.methods.replicate import Replicate"
        "\n\n@dataclass(frozen=True)\nclass AsManyCopiesAsThereAreSlots(Replicate):\n"
        '    name: ClassVar[str] = "as-many-copies-as-there-are-slots"\n'
    )
    path, out = config(clients={"ranks": [1, 3]}), tmp_path / "compared"
    methods = f"lora-a2,{file}:AsManyCopiesAsThereAreSlots,fedsa"
    words = ("compare", path, "--methods", methods, "--seeds", "2", "--out", out)
    assert fedlora(*words)[0] == 0
    piped, narrow = warm.run(*words).stdout, on_terminal(*words, columns=80)
    for text in (piped, narrow):
        assert "…" not in text
        for row in table_of(out).values():
            for score in ("personal", "worst_tenth"):
                shown = " ± ".join(f"{100 * float(row[f'{score}_{part}']):.1f}" for part in ("mean", "spread"))
                assert shown in text
        assert "bytes down" in text
    assert max(map(len, narrow.partition("\nmethod")[2].partition("page:")[0].splitlines())) <= 80


@pytest.mark.defect("R10")
def test_a_comparison_counts_runs_and_tells_the_time_that_is_left(compared):
    said, _ = compared("fedit,ffa", "--seeds", "2")
    for number, name in enumerate(("fedit, seed 0", "ffa, seed 0", "fedit, seed 1", "ffa, seed 1"), start=1):
        assert f"run {number} of 4: {name}" in said
    rounds = [line for line in said.splitlines() if "round 1/2" in line]
    assert len(rounds) == 4
    assert all(re.search(r"about \d+ (s|min) left$", line) for line in rounds)


@pytest.mark.defect("R10")
def test_the_end_of_a_run_names_score_page_and_adapter(config, fedlora, tmp_path):
    out = tmp_path / "out"
    _, said, _ = fedlora("run", config(), "--out", out)
    summary = json.loads((out / "summary.json").read_text())
    assert f"done: accuracy {100 * summary['global']['accuracy']:.1f} % of the global model" in said
    assert f"{100 * summary['personal']['mean']:.1f} % of the clients' models" in said
    assert f"page: {out / 'report.html'}" in said
    assert f"adapter: {out / 'adapter'}" in said
    assert re.search(r"round 1/2 .* about \d+ s left\n", said)
    out = tmp_path / "personal"
    _, said, _ = fedlora("run", config(method={"name": "fedsa"}), "--out", out)
    assert "of the global model" not in said
    assert f"clients' own models: 3, such as {out / 'clients' / 'c0' / 'adapter'}" in said


@pytest.mark.defect("R15")
def test_a_method_from_a_file_is_called_by_its_name(config, fedlora, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom fedlora.methods.fedit import FedIT\n\n"
        '@dataclass(frozen=True)\nclass SideRates(FedIT):\n    name: ClassVar[str] = "side-rates"\n'
    )
    out = tmp_path / "out"
    code, said, err = fedlora("compare", config(), "--methods", f"{file}:SideRates,fedit", "--out", out)
    assert code == 0, err
    assert set(table_of(out)) == {"side-rates", "fedit"}
    assert "\nside-rates " in said


@pytest.mark.defect("R15")
def test_a_split_prints_nothing_of_its_own(config, tmp_path):
    path = config(split={"kind": "natural", "column": "ward"}, run={"rounds": 1})
    script = f"import fedlora\nfor record in fedlora.run({str(path)!r}): pass\n"
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("TQDM_DISABLE", None)  # the command line sets it, in this very process
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "Generating" not in done.stdout + done.stderr


@pytest.mark.defect("R15")
def test_a_single_run_is_not_told_in_the_plural(config, fedlora, tmp_path):
    fedlora("run", config(), "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("run(s)", "side by side", "Band: lowest to highest seed"):
        assert words not in page
    assert "1 runs" not in page


@pytest.mark.defect("R12")
def test_another_name_is_no_other_run(config, fedlora, tmp_path):
    out = tmp_path / "out"
    assert fedlora("run", config(), "--out", out)[0] == 0
    code, said, err = fedlora("run", config(run={"name": "utterances"}), "--out", out, "--resume")
    assert (code, err) == (0, "")
    assert "going on after round" not in said
    assert "round 2 of 2 is done already: nothing is left to train" in said


@pytest.mark.defect("R4")
def test_a_hint_on_a_wrong_key_knows_the_name(config, fedlora, tmp_path):
    tree = config(method={"name": "lora-a2", "nam": "fedit"})
    code, _, err = fedlora("run", tree, "--out", tmp_path / "out")
    assert code == 2
    assert "unknown key method.nam: did you mean 'name'?" in err
    help_text = " ".join(warm.run("compare", "--help", COLUMNS="200").stdout.split())
    assert "tell them side by side" not in help_text
