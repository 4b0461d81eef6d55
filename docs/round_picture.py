"""The picture of one round."""

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from results import svg


def concepts_picture():
    """One round, with the only seam in the middle."""
    figure = Figure(figsize=(8.6, 3.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 86)
    axes.set_ylim(0, 35)
    axes.axis("off")

    def box(place, size, text, colour):
        (x, y), (width, height) = place, size
        shape = FancyBboxPatch(place, width, height, boxstyle="round,pad=0.3,rounding_size=1", fc=colour, ec="#58626b")
        axes.add_patch(shape)
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)

    def arrow(start, end, text, above):
        shape = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="#58626b")
        axes.add_patch(shape)
        place = ((start[0] + end[0]) / 2, start[1] + (0.8 if above else -0.8))
        axes.text(*place, text, ha="center", va="bottom" if above else "top", fontsize=8, color="#333a40")

    axes.text(14, 32.5, "server: federate()", ha="center", fontsize=10, weight="bold")
    axes.text(40, 32.5, "transport", ha="center", fontsize=10, weight="bold")
    axes.text(65, 32.5, "client: serve()", ha="center", fontsize=10, weight="bold")
    box((2, 23), (24, 6), "method.dispatch(state, client)", "#dcebf5")
    box((2, 13), (24, 6), "state: adapter, versions, ...", "#f3f4f5")
    box((2, 3), (24, 6), "method.aggregate(state, updates)", "#dcebf5")
    box((54, 23), (22, 6), "method.receive(payload)", "#fbeed3")
    box((54, 13), (22, 6), "trainer.fit(...)", "#e0f0e6")
    box((54, 3), (22, 6), "method.upload(trained)", "#fbeed3")
    box((80, 3), (4, 26), "", "#f3f4f5")
    axes.text(82, 16, "memory", ha="center", va="center", rotation=90, fontsize=9)
    axes.plot([40, 40], [1, 31], linestyle=":", color="#58626b", linewidth=1.2)
    arrow((26.6, 26), (53.4, 26), "order: a payload down, bytes counted", True)
    arrow((53.4, 6), (26.6, 6), "reply: a payload up, bytes counted", False)
    ups = (((14, 9.5), (14, 12.5)), ((14, 19.5), (14, 22.5)))
    downs = (((65, 22.5), (65, 19.5)), ((65, 12.5), (65, 9.5)))
    kept = (((79.5, 26), (76.5, 26)), ((76.5, 6), (79.5, 6)))
    for start, end in (*ups, *downs, *kept):
        axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color="#58626b"))
    return svg(figure)
