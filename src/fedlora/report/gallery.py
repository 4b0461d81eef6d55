# SPDX-License-Identifier: Apache-2.0
"""The figures of a page in their order, with titles and captions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedlora.report import figures, heat_maps
from fedlora.report.curves import Against
from fedlora.report.figures import Drawing
from fedlora.report.key import Key
from fedlora.report.read import Group, Line, RunData
from fedlora.report.task import MetricInfo

_LOSS = MetricInfo("loss", False, "plain", "mean training loss")


@dataclass(frozen=True, slots=True)
class Captioned:
    """A figure with its words."""

    title: str
    caption: str
    svg: str
    key: Sequence[Key] = ()


def gallery(groups: Sequence[Group]) -> list[Captioned]:
    """All figures that these runs have something to show in."""
    shown = _present(_curves(groups))
    low, labels = _present(_per_method(groups)), _present([_labels(groups[0].runs[0])])
    shown += [*labels, *low] if len(shown) % 2 else [*low, *labels]  # figures of equal height stand side by side
    return [*shown, *_present(figure for group in groups for figure in _slots(group))]


def _present(shown: Iterable[Captioned | None]) -> list[Captioned]:
    return [figure for figure in shown if figure]


def _curves(groups: Sequence[Group]) -> list[Captioned | None]:
    name = groups[0].runs[0].task.headline.name
    sent = "By the bytes that all clients have sent up to then; logarithmic."
    loss = figures.curves_of(
        groups, lambda line: line.get("loss"), _LOSS, against="round", chance=None, name="loss-round"
    )
    return [
        _captioned(
            f"Global {name} by round",
            "The one global model on the whole test set.",
            _scores(groups, "global", name, "round"),
        ),
        _captioned(
            f"Personal {name} by round",
            "Mean over clients of each client's own model on its own test part.",
            _scores(groups, "personal", "mean", "round"),
        ),
        _captioned(f"Global {name} by bytes sent", sent, _scores(groups, "global", name, "bytes_up")),
        _captioned(f"Personal {name} by bytes sent", sent, _scores(groups, "personal", "mean", "bytes_up")),
        _captioned("Training loss by round", "Mean over the clients of the round, weighted by their examples.", loss),
    ]


def _per_method(groups: Sequence[Group]) -> list[Captioned | None]:
    """Those with one line of marks a method."""
    name = groups[0].runs[0].task.headline.name
    seeds = ", mean over seeds" if any(len(group.runs) > 1 for group in groups) else ""
    return [
        _captioned(
            "Every client's own score",
            f"Each client's own {name} on its own test part after the last scored round; a dot for each client and "
            "seed.",
            figures.client_scores(groups),
        ),
        _captioned("Bytes by direction", f"All clients, all rounds{seeds}.", figures.traffic(groups)),
    ]


def _labels(run: RunData) -> Captioned | None:
    word, _ = run.labels
    return _captioned(
        f"Who owns which {word}s",
        f"Training examples, seed {run.seed}. The stronger the colour, the more: up to {_most_of_a_label(run)}.",
        None if run.deployed else _plain(heat_maps.label_map(run, f"{word}s of the clients")),
    )


def _most_of_a_label(run: RunData) -> int:
    """The most examples of one label that a client has."""
    return max((max(counts["labels"], default=0) for counts in run.split["clients"].values()), default=0)


def _slots(group: Group) -> list[Captioned | None]:
    """What LoRA-A2's clients chose, by side."""
    run = group.runs[0]
    shown: list[Captioned | None] = []
    for side, letter in (("output", "B"), ("input", "A")):
        shown += [
            _captioned(
                f"{group.label}: chosen slots of {letter}",
                f"Mean over clients, last round that trained {letter}, seed {run.seed}.",
                _plain(heat_maps.slot_map(run, side, f"chosen slots of {letter} by layer and map")),
            ),
            _captioned(
                f"{group.label}: slots in common, {letter}",
                "Jaccard similarity of every two clients' choices in that round.",
                _plain(heat_maps.overlap_map(run, side, f"overlap of chosen slots of {letter}")),
            ),
        ]
    return shown


def _scores(groups: Sequence[Group], part: str, name: str, against: Against) -> Drawing | None:
    task = groups[0].runs[0].task
    return figures.curves_of(
        groups, _score(part, name), task.headline, against=against, chance=task.chance, name=f"{part}-{against}"
    )


def _score(part: str, name: str) -> Callable[[Line], float | None]:
    return lambda line: line[part].get(name) if line[part] else None


def _plain(svg: str | None) -> Drawing | None:
    return Drawing(svg) if svg else None


def _captioned(title: str, caption: str, drawing: Drawing | None) -> Captioned | None:
    return Captioned(title, " ".join([caption, *drawing.remarks]), drawing.svg, drawing.key) if drawing else None
