# SPDX-License-Identifier: Apache-2.0
"""Matplotlib figures as SVG for a page: colours that follow the page, values under the pointer."""

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from fedlora.report.text import shortened

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Okabe and Ito's colours, told apart by most eyes. On a page each gives way to its namesake of the page, `--c0` to
`--c7`, which has contrast enough on light and on dark."""
GREY = "#808488"
"""For lines of the frame: visible on light and on dark."""
_COLOUR = re.compile("|".join(PALETTE))
_LONGEST_TIP = 300
"""Characters: a figure has thousands of tips, and a name has any length."""
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # `$` in a name is a dollar
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "axes.titlesize": 9,
}


def new_figure(width: float = 4.1, height: float = 2.8, axes: int = 1) -> tuple[Figure, list[Axes]]:
    """A transparent figure, in inches, with axes side by side."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        drawn = [figure.add_subplot(1, axes, number + 1) for number in range(axes)]
    figure.patch.set_alpha(0.0)
    for panel in drawn:
        panel.patch.set_alpha(0.0)
    return figure, drawn


def to_svg(figure: Figure, name: str, title: str, tips: Mapping[str, str]) -> str:
    """An `<svg>` element to stand in a page.

    Args:
        figure: the drawing.
        name: makes the ids of this drawing different from those of others on the page.
        title: what it shows, for readers who cannot see it.
        tips: gid of an artist -> the text to show at it.
    """
    stream = io.BytesIO()
    for text in figure.findobj(Text):  # those made before the style held; ticks are made anew within it
        text.set_parse_math(False)
        text.set_usetex(False)
    with rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib lacks: the browser draws the text
        _lay_out(figure)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(stream.getvalue())  # noqa: S314  drawn just above
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    used = set(re.findall(rb"(?:url\(#|href=\"#)([^)\"]+)", stream.getvalue()))
    for element in root.iter():
        gid = element.get("id", "")
        if gid in tips:
            ElementTree.SubElement(element, f"{{{_SVG}}}title").text = shortened(tips[gid], _LONGEST_TIP)
        if gid and gid.encode() not in used:
            del element.attrib["id"]
        if "style" in element.attrib:
            element.set("style", _COLOUR.sub(_of_the_page, element.attrib["style"]))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", title)
    return ElementTree.tostring(root, encoding="unicode")


def _lay_out(figure: Figure) -> None:
    """Place the axes once. `savefig` would draw the whole figure a first time to do so."""
    FigureCanvasSVG(figure)  # text has the sizes that it will have in the SVG
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.set_layout_engine(None)


def _of_the_page(colour: re.Match[str]) -> str:
    return f"var(--c{PALETTE.index(colour[0])}, {colour[0]})"
