# SPDX-License-Identifier: Apache-2.0
"""One run: its rounds one by one, its folder, and going on with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedlora.app.build import Experiment, Simulation, build, load
from fedlora.app.config import Config, make_config, read_config, resolved
from fedlora.app.pages import write_page
from fedlora.app.results import client_model, environment, export, export_adapters, ownership, summarise
from fedlora.errors import UserError
from fedlora.federation.journal import ENVIRONMENT, SPLIT, SUMMARY, Journal
from fedlora.federation.record import RoundRecord, round_line
from fedlora.federation.server import Server, begin, federate, global_model
from fedlora.training.data import Dataset


class Run:
    """A run to iterate over, once: each step trains a round and yields its record.

    Stopping is `break`. With a folder every round is on disk before its record is yielded, and the adapters, the
    summary and the page are written after the last, in this order. A page that cannot be made is no failure of the
    run: a sentence on stderr says so.

    Args:
        experiment: everything of the run.
        folder: where to keep it; None: nowhere.
        resume: go on with the run that the folder holds, if it holds one.

    Raises:
        UserError: with one sentence about what is in the way.
    """

    def __init__(self, experiment: Experiment, folder: Path | None = None, resume: bool = False) -> None:
        self.experiment = experiment
        self.server: Server = begin(experiment.federation, experiment.head)
        self._lines: list[Mapping[str, Any]] = []
        self._journal = _open(experiment, folder, resume) if folder else None
        if self._journal:
            self.experiment = experiment.keeping(self._journal.client_states)
            self.server = self._journal.server or self.server

    @property
    def finished(self) -> bool:
        """Whether no round is left."""
        return self.server.round >= self.experiment.federation.plan.rounds

    def __iter__(self) -> Iterator[RoundRecord]:
        yield from self.rounds()
        self.write_page()

    def rounds(self) -> Iterator[RoundRecord]:
        """The run without its page, for callers with more to do before that: `write_page` comes last."""
        try:
            for server, record in federate(self.experiment.federation, self.server):
                if self._journal:
                    self._journal.commit(server, record)
                self.server = server
                self._lines.append(round_line(record))
                yield record
            if self._journal:
                self._finish(self._journal)
        finally:
            if self._journal:
                self._journal.close()

    def _finish(self, journal: Journal) -> None:
        summary = summarise(self.experiment, journal.rounds())
        export_adapters(self.experiment, self.server, journal.folder, summary)
        journal.finish(summary)

    def write_page(self) -> None:
        """Write the page of a finished run into its folder, if it has one. See `fedlora.app.pages`."""
        if self._journal:
            write_page([self._journal.folder], self._journal.folder)

    def save(self, folder: str | Path, client: str | None = None) -> None:
        """Write the adapter as it is now as a PEFT directory.

        Args:
            folder: is made if it is not there.
            client: a client's personal model in place of the global one.

        Raises:
            UserError: there is no global model, or no such client.
        """
        roster = {entry.id: entry for entry in self.experiment.federation.transport.roster()}
        model = global_model(self.experiment.federation, self.server)
        if client is None and model is None:
            raise UserError(f"This method has no global model: save one client's, {', '.join(sorted(roster))}.")
        if client is not None and client not in roster:
            raise UserError(f"There is no client {client!r}: choose one of {', '.join(sorted(roster))}.")
        if client is not None and not isinstance(self.experiment, Simulation):
            raise UserError(f"Client {client!r} is elsewhere, and its own model with it: save the global one.")
        member = roster[client] if client is not None else None
        here = self.experiment if isinstance(self.experiment, Simulation) else None
        chosen = client_model(here, self.server, member) if here and member else model
        summary = summarise(self.experiment, self._lines)
        if chosen is not None:
            export(self.experiment, chosen, Path(folder), summary, member)


def run(
    config: Config | Mapping[str, Any] | str | Path,
    data: Dataset | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
) -> Run:
    """A run to iterate over: `for record in fedlora.run(config, data): ...`, stopped by `break`.

    Args:
        config: a `Config`, nested mappings, or the path of a TOML file.
        data: examples of your own, in place of the config's [data]; see `from_lists`.
        out: a folder to keep it in.
        resume: go on with the run that the folder holds.
        workers: how many clients are trained at a time, one core each; None: one a core. Results do not
            depend on it.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    if isinstance(config, str | Path):
        config = read_config(Path(config))
    elif not isinstance(config, Config):
        config = make_config(config)
    folder = Path(out) if out is not None else None
    return Run(build(config, load(config, data), workers), folder, resume)


def _open(experiment: Experiment, folder: Path, resume: bool) -> Journal:
    files = {ENVIRONMENT: environment(experiment), SPLIT: ownership(experiment), **experiment.files}
    opened = Journal.go_on if resume else Journal.start
    return opened(folder, resolved(experiment.config), files)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that ended."""
    return (folder / SUMMARY).is_file()
