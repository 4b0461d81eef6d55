"""A kill at any moment loses at most the unfinished round, and what goes on ends on the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedlora.core.adapter import AdapterSpec
from fedlora.core.rounds import Client
from fedlora.errors import RunFolderError
from fedlora.federation import files
from fedlora.federation.journal import Journal
from fedlora.federation.local import LocalTransport
from fedlora.federation.pipeline import Pipeline
from fedlora.federation.server import Federation, Plan, begin, federate
from fedlora.federation.settings import ClientsSettings
from fedlora.laws.standin import StandIn
from fedlora.methods.fedsa import FedSA
from fedlora.methods.flexlora import FlexLoRA
from fedlora.methods.lora_a2 import LoRAA2

CONFIG = '[run]\nrounds = 4\nname = "x"\n'
SPEC = AdapterSpec({"a": (5, 7), "b": (6, 4)}, 2, 1.0, head="private")
CLIENTS = tuple(Client(f"ward/{k}", 3 + k, 2) for k in range(3))


class Killed(BaseException):
    """Stands for kill -9: nothing below may catch it and tidy up."""


def run(method, folder, config=CONFIG):
    """A run with its folder: started, or gone on with where there is one."""
    opened = Journal.go_on if (folder / "config.toml").exists() else Journal.start
    files = {"environment.json": {"base_fingerprint": "b"}, "split.json": {"digests": {"train": "t"}}}
    journal = opened(folder, config, files)
    trainer = StandIn(SPEC, 1)
    transport = LocalTransport(CLIENTS, Pipeline(method), trainer, client_batch=2, client_states=journal.client_states)
    own = Federation(Pipeline(method), SPEC, transport, Plan(4, clients=ClientsSettings(per_round=2)), trainer)
    for server, record in federate(own, journal.server or begin(own, trainer.head)):
        journal.commit(server, record)
    journal.finish({"rounds": len(journal.rounds())})
    journal.close()


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timings.jsonl"
    }


def killed_at(monkeypatch, number, torn):
    """Die at the n-th moment at which something reaches the disk; torn: with half a line written."""
    count, sync = [0], os.fsync

    def fsync(descriptor):
        count[0] += 1
        if count[0] == number:
            name = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if torn and name.suffix == ".jsonl":
                os.truncate(name, max(0, name.stat().st_size - 7))
            raise Killed
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    return count


@pytest.mark.parametrize("method", [LoRAA2(pool_rank=3), FedSA(), FlexLoRA()], ids=lambda m: m.name)
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_killed_at_every_single_moment(monkeypatch, tmp_path, method, torn):
    run(method, tmp_path / "whole")
    expected = tree(tmp_path / "whole")
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            count = killed_at(patch, number, torn)
            try:
                run(method, folder)
            except Killed:
                pass
            else:
                break
        run(method, folder)
        assert tree(folder) == expected, f"killed at moment {number}"
    assert count[0] == number - 1 > 30


def test_killed_again_and_again(monkeypatch, tmp_path):
    """Every attempt dies a little later than the last; in between nothing is lost for good."""
    run(LoRAA2(), tmp_path / "whole")
    for attempt in range(3, 200, 3):
        with monkeypatch.context() as patch:
            killed_at(patch, attempt, torn=True)
            try:
                run(LoRAA2(), tmp_path / "often")
                break
            except Killed:
                continue
    assert tree(tmp_path / "often") == tree(tmp_path / "whole")


def test_a_finished_run_that_goes_on_stays_as_it_is(tmp_path):
    run(FedSA(), tmp_path / "run")
    before = tree(tmp_path / "run")
    run(FedSA(), tmp_path / "run")
    assert tree(tmp_path / "run") == before


def test_a_changed_config_is_named(tmp_path):
    run(FedSA(), tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"run\.rounds was 4 and is now 3"):
        run(FedSA(), tmp_path / "run", CONFIG.replace("4", "3"))


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="already holds other things"):
        Journal.start(tmp_path, CONFIG, {})
    with pytest.raises(RunFolderError, match="holds other things, no run"):
        Journal.go_on(tmp_path, CONFIG, {})
    with pytest.raises(RunFolderError, match="holds nothing, no run"):
        Journal.go_on(tmp_path / "nowhere", CONFIG, {})


def newest(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def test_a_damaged_checkpoint_can_be_deleted_and_the_round_before_goes_on(tmp_path):
    run(LoRAA2(), tmp_path / "run")
    expected = tree(tmp_path / "run")
    path = newest(tmp_path / "run")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RunFolderError, match=r"server-000004.payload is damaged: delete it"):
        run(LoRAA2(), tmp_path / "run")
    path.unlink()
    run(LoRAA2(), tmp_path / "run")
    assert tree(tmp_path / "run") == expected


def test_a_foreign_checkpoint_is_refused(tmp_path):
    run(FedSA(), tmp_path / "one")
    run(FedSA(), tmp_path / "two", CONFIG + "seed = 1\n")
    newest(tmp_path / "one").write_bytes(newest(tmp_path / "two").read_bytes())
    with pytest.raises(RunFolderError, match="belongs to another run"):
        run(FedSA(), tmp_path / "one")


def test_no_checkpoint_at_all(tmp_path):
    run(FedSA(), tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(RunFolderError, match="4 rounds are finished, but no checkpoint is there"):
        run(FedSA(), tmp_path / "run")


def test_a_full_disk_gets_a_sentence_and_nothing_is_lost(monkeypatch, tmp_path):
    run(FedSA(), tmp_path / "whole")

    def full(descriptor):
        if len(list((tmp_path / "run" / "checkpoints").glob("*.payload"))) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"No space left on device.*make room and go on with --resume"):
            run(FedSA(), tmp_path / "run")
    run(FedSA(), tmp_path / "run")
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_two_processes_never_write_into_one_folder(tmp_path):
    """The second is refused with a sentence, and may go on as soon as the first has died."""
    code = "import sys\nfrom pathlib import Path\nfrom fedlora.federation.journal import Journal\n"
    code += f"journal = Journal.start(Path(sys.argv[1]), {CONFIG!r}, {{}})\nprint(flush=True)\nsys.stdin.read()\n"
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        first.stdout.readline()
        with pytest.raises(RunFolderError, match="Another process is at work in"):
            Journal.go_on(folder, CONFIG, {})
        first.kill()
    Journal.go_on(folder, CONFIG, {}).close()
