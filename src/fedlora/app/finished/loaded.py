# SPDX-License-Identifier: Apache-2.0
"""A run folder read back in Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlora.app.config.schema import Config, read_config
from fedlora.app.finished.frames import clients_frame, history_frame
from fedlora.app.finished.generate import generate
from fedlora.app.finished.predict import Answer, predict
from fedlora.app.run.run import is_finished
from fedlora.errors import RunFolderError
from fedlora.federation.journal import SUMMARY
from fedlora.federation.same_run import CLIENTS, CONFIG, ENVIRONMENT, ROUNDS
from fedlora.report.page import write_report
from fedlora.run_files import read_lines, read_object
from fedlora.training.encoding.render import Prompt

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LoadedRun:
    """A run as its folder has it, finished or not. Made by `fedlora.load_run`."""

    folder: Path

    def __repr__(self) -> str:
        rounds = len(read_lines(self.folder / ROUNDS))
        state = "finished" if self.finished else "not finished"
        return f"LoadedRun({self.config.method.name!r}, {rounds} rounds, {state}, {str(self.folder)!r})"

    @property
    def config(self) -> Config:
        """The resolved config."""
        return read_config(self.folder / CONFIG)

    @property
    def finished(self) -> bool:
        """Whether it has a summary and a model."""
        return is_finished(self.folder)

    @property
    def summary(self) -> Mapping[str, Any]:
        """The contents of `summary.json`.

        Raises:
            RunFolderError: the run is not finished, or its summary is damaged.
        """
        if not self.finished:
            raise RunFolderError(f"{self.folder} is a run that is not finished: it has no summary.json.")
        return read_object(self.folder / SUMMARY)

    @property
    def history(self) -> "pandas.DataFrame":
        """A row a round, see `history_frame`."""
        return history_frame(read_lines(self.folder / ROUNDS))

    @property
    def clients(self) -> "pandas.DataFrame":
        """A row a client and round."""
        return clients_frame(read_lines(self.folder / CLIENTS))

    def predict(
        self,
        texts: str | Sequence[str],
        client: str | None = None,
        *,
        top: int | None = 3,
        base: str | Path | None = None,
    ) -> list[Answer]:
        """Labels and probabilities for each text, the likeliest first; the base is loaded at every call.

        Args:
            texts: one or several.
            client: whose personal model is asked; None: the global one.
            top: how many labels; None: all.
            base: where the base is now, if it has moved.

        Raises:
            UserError: the run is not finished, or its base or its adapter cannot be used.
        """
        asked = [texts] if isinstance(texts, str) else list(texts)
        answers = predict(self.folder, asked, client, str(base) if base is not None else None)
        return [dict(ranked[:top]) for ranked in answers]

    def generate(
        self,
        prompts: str | Sequence[Prompt],
        client: str | None = None,
        *,
        most: int | None = None,
        base: str | Path | None = None,
    ) -> list[str]:
        """What the model writes behind each prompt, greedily; the base is loaded at every call.

        Args:
            prompts: one text or several, each as the run's examples have their prompts; or messages
                (`fedlora.training.data.dialogues.Message`), which the chat template puts together.
            client: whose personal model is asked; None: the global one.
            most: the longest answer, in tokens; None: as evaluate.most_new_tokens has it.
            base: where the base is now, if it has moved.

        Raises:
            UserError: the run is not finished, writes no text, or its base or its adapter cannot be used; or a prompt
                leaves no room for an answer.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        place = str(base) if base is not None else None
        return [each.text for each in generate(self.folder, asked, client, place, most)]

    def report(self) -> Path:
        """Write the page into the run's folder; returns where it is.

        Raises:
            RunFolderError: no round is finished.
            ReportError: the page cannot be drawn or written.
        """
        return write_report([self.folder], self.folder)


def load_run(path: str | Path) -> LoadedRun:
    """A run folder, to be asked and looked at.

    Raises:
        RunFolderError: there is no run.
    """
    folder = Path(path)
    missing = [name for name in (CONFIG, ENVIRONMENT) if not (folder / name).is_file()]
    if missing:
        raise RunFolderError(f"{folder} is no run folder: it has no {missing[0]}.")
    return LoadedRun(folder)
