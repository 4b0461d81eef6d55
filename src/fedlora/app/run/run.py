# SPDX-License-Identifier: Apache-2.0
"""One run: its rounds one by one, its folder, and going on with it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from fedlora.app.build.dtype import with_dtype
from fedlora.app.build.simulation import Experiment, Simulation, build, load
from fedlora.app.config.handed import BaseModel, Data, handed
from fedlora.app.config.keys import Keys
from fedlora.app.config.schema import Config, resolved
from fedlora.app.finished.frames import clients_frame, history_frame
from fedlora.app.finished.generate import continued
from fedlora.app.finished.predict import Answer, AskedModel, answers, require_task
from fedlora.app.run.generations import final_generations, intervals, write_generations
from fedlora.app.run.pages import write_page
from fedlora.app.run.results import (
    MODEL_FOLDERS,
    asking,
    client_model,
    environment,
    export,
    export_adapters,
    label_names,
    ownership,
    summarise,
)
from fedlora.core.adapter import Start
from fedlora.core.rounds import Client
from fedlora.errors import UserError
from fedlora.federation.journal import CLIENT_MODELS, SUMMARY, Journal
from fedlora.federation.record import RoundRecord, client_line, round_line
from fedlora.federation.same_run import CLIENTS, ENVIRONMENT, SPLIT
from fedlora.federation.server import Server, begin, federate, global_model
from fedlora.report.page import write_report
from fedlora.run_files import read_lines, read_object
from fedlora.training.encoding.render import Prompt

if TYPE_CHECKING:
    import pandas


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
        self._client_lines: list[Mapping[str, Any]] = []
        self._journal = _open(experiment, folder, resume) if folder else None
        if self._journal:
            self.experiment = experiment.keeping(self._journal.client_states)
            self.server = self._journal.server or self.server

    def __repr__(self) -> str:
        name, plan = self.experiment.config.method.name, self.experiment.federation.plan
        place = f", {str(self.folder)!r}" if self.folder is not None else ""
        return f"Run({name!r}, round {self.server.round} of {plan.rounds}{place})"

    @property
    def folder(self) -> Path | None:
        """Where it is kept; None: nowhere."""
        return self._journal.folder if self._journal else None

    @property
    def lines(self) -> Sequence[Mapping[str, Any]]:
        """What `rounds.jsonl` has, or would have, of the rounds so far."""
        return self._journal.rounds() if self._journal else self._lines

    @property
    def history(self) -> "pandas.DataFrame":
        """The rounds so far as a frame, a row each: see `fedlora.app.finished.frames.history_frame`."""
        return history_frame(self.lines)

    @property
    def clients(self) -> "pandas.DataFrame":
        """The clients so far as a frame, a row a client and round."""
        return clients_frame(read_lines(self.folder / CLIENTS) if self.folder is not None else self._client_lines)

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
                if not self._journal:
                    self._lines.append(round_line(record))
                    self._client_lines += [client_line(client, record.scoring) for client in record.clients]
                yield record
            if self._journal:
                self._finish(self._journal)
        finally:
            if self._journal:
                self._journal.close()

    def _finish(self, journal: Journal) -> None:
        summary = summarise(self.experiment, journal.rounds())
        for name in (*MODEL_FOLDERS, CLIENT_MODELS):  # of a shorter run, or of a kill in the middle of this
            shutil.rmtree(journal.folder / name, ignore_errors=True)
        found = final_generations(self.experiment, self.server)
        if found is not None:
            summary |= {"intervals": intervals(self.experiment, found)}
            write_generations(self.experiment, found, journal.folder)
        export_adapters(self.experiment, self.server, journal.folder, summary)
        journal.finish(summary)

    def write_page(self) -> None:
        """Write the page of a finished run into its folder, if it has one. See `fedlora.app.run.pages`."""
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
        model, member = self._model(client)
        export(self.experiment, model, Path(folder), summarise(self.experiment, self.lines), member)

    def predict(self, texts: str | Sequence[str], client: str | None = None, *, top: int | None = 3) -> list[Answer]:
        """What the model as it is now says: labels and probabilities for each text, the likeliest first.

        Args:
            texts: one or several.
            client: whose personal model is asked; None: the global one.
            top: how many labels; None: all.

        Raises:
            UserError: there is no global model, or no such client.
        """
        require_task(self.experiment.config, "classify", "this")
        model, member = self._model(client)
        asked, experiment = [texts] if isinstance(texts, str) else list(texts), self.experiment
        head = dict(model.adapter.dense) or dict(experiment.head)
        whole = replace(model, adapter=model.adapter.with_dense(head))
        labels = label_names(experiment, member)
        ranked = answers(experiment.config, experiment.base, whole, experiment.spec, asked, labels)
        return [dict(each[:top]) for each in ranked]

    def generate(
        self, prompts: str | Sequence[Prompt], client: str | None = None, *, most: int | None = None
    ) -> list[str]:
        """What the model as it is now writes behind each prompt, greedily.

        Args:
            prompts: as of `LoadedRun.generate`.
            client: whose personal model is asked; None: the global one.
            most: the longest answer, in tokens; None: as evaluate.most_new_tokens has it.

        Raises:
            UserError: there is no global model, or no such client; the model writes no text; or a prompt leaves no
                room for an answer.
        """
        experiment = self.experiment
        require_task(experiment.config, "generate", "this")
        model, _ = self._model(client)
        asked = AskedModel(experiment.config, experiment.base, model, experiment.spec, {"asked": asking(experiment)})
        return [each.text for each in continued(asked, [prompts] if isinstance(prompts, str) else prompts, most)]

    def report(self) -> Path:
        """Write the page of the rounds so far into the run's folder; returns where it is.

        Raises:
            UserError: the run has no folder, or no finished round.
            ReportError: the page cannot be drawn or written.
        """
        if self.folder is None:
            raise UserError("This run keeps no folder, and a page is made from one: give out=... to fedlora.run.")
        return write_report([self.folder], self.folder)

    def _model(self, client: str | None) -> tuple[Start, Client | None]:
        """The global model, or a client's with who it is."""
        roster = {entry.id: entry for entry in self.experiment.federation.transport.roster()}
        if client is None:
            model = global_model(self.experiment.federation, self.server)
            if model is None:
                raise UserError(f"This method has no global model: name a client, {', '.join(sorted(roster))}.")
            return model, None
        if client not in roster:
            raise UserError(f"There is no client {client!r}: choose one of {', '.join(sorted(roster))}.")
        if not isinstance(self.experiment, Simulation):
            raise UserError(f"Client {client!r} is elsewhere, and its model with it: take the global one.")
        return client_model(self.experiment, self.server, roster[client]), roster[client]


def run(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    data: Data | None = None,
    *,
    base: BaseModel | None = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int | None = None,
    **keys: Unpack[Keys],
) -> Run:
    """A run to iterate over: `for record in fedlora.run(data=..., method="lora-a2", rounds=3)`, stopped by `break`.

    Everything has a default: without any argument a small generated task is run.

    Args:
        config: a `Config`, nested mappings, or the path of a TOML file.
        data: examples (`from_lists`, a `datasets.Dataset`, a `DatasetDict` with train and test), the path of a file or
            folder, a name on the hub, or a mapping with the keys of [data].
        base: a folder, a name on the hub, or a loaded transformers model, which stays as it is.
        tokenizer: of a loaded model; by default it is loaded by the model's name.
        out: a folder to keep the run in.
        resume: go on with the run that the folder holds; with more `rounds` also with a finished one.
        workers: how many clients are trained at a time, one core each; None: one a core. Results do not
            depend on it.
        **keys: keys of the config, on top of it: see `fedlora.Keys`.

    Raises:
        UserError: with one sentence about what does not fit.
    """
    given = handed(config, data, base, tokenizer, keys)
    folder = Path(out) if out is not None else None
    whole = with_dtype(given.config, folder, given.model)
    resources = load(whole, given.dataset, given.model)
    return Run(build(whole, resources, workers), folder, resume)


def _open(experiment: Experiment, folder: Path, resume: bool) -> Journal:
    files = {ENVIRONMENT: environment(experiment), SPLIT: ownership(experiment), **experiment.files}
    opened = Journal.go_on if resume else Journal.start
    return opened(folder, resolved(experiment.config), files)


def is_finished(folder: Path, rounds: int = 1) -> bool:
    """Whether a folder holds a run that ended, after so many rounds or more.

    Raises:
        RunFolderError: its summary is damaged.
    """
    path = folder / SUMMARY
    return path.is_file() and bool(read_object(path, {"rounds": int})["rounds"] >= rounds)
