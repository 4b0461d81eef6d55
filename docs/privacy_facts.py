"""What leaves a site under each method, from a played round."""

from fedlora.federation.pipeline import Pipeline
from fedlora.laws.world import World, play
from fedlora.methods import BUILT_IN

LETTERS = {"input": "A", "output": "B"}


def privacy_table():
    """What leaves a site under each method: what the server expects, what the notes of a played round say."""
    lines = [
        "| method | goes up in odd rounds | in even rounds | notes | stays | others can read |",
        "|---|---|---|---|---|---|",
    ]
    for name, kind in BUILT_IN.items():
        method = kind()
        adapter = "lora" if "lora" in method.facts.kinds else "dense"
        if method.facts.centralized:
            lines.append(
                f"| [`{name}`](methods/{name}.md) | every text: all data are in one place | - | - | nothing | - |"
            )
            continue
        if not method.facts.trains:
            lines.append(f"| [`{name}`](methods/{name}.md) | - | - | - | everything | - |")
            continue
        nobody, shapes = frozenset(), ((5, 7), (6, 4))
        world = World(shapes, (2, 2), (5, 4), 2, nobody, nobody, 1.0, "frozen", "float32", 0, adapter)
        run = play(Pipeline(method), world)
        up = [sent_words(method, run.exchange(round, "c0")[0].schema.expected, adapter) for round in (1, 2)]
        notes = {key: None for reply in run.transport.replies.values() for key in reply.notes}
        told = ", ".join(f"`{key}`" for key in notes) or "-"
        stays = " and ".join(LETTERS[side] for side in sorted(method.facts.private_sides)) or "-"
        merged = "steps" in run.servers[-1].state.extra
        read = "every client's factors" if merged else "the aggregate" if any(own != "-" for own in up) else "-"
        lines.append(f"| [`{name}`](methods/{name}.md) | {up[0]} | {up[1]} | {told} | {stays} | {read} |")
    return "\n".join(lines)


def sent_words(method, expected, adapter):
    """What a method expects in one round, in words."""
    what = "change" if method.facts.sends == "changes" else "values"
    words = [f"chosen slots of {LETTERS[side]} ({what}), and their numbers" for side in expected.chosen]
    sides = [side for side, shapes in expected.wholes[0].items() if shapes]
    if sides and adapter == "dense":
        words.append("the change of every parameter")
    elif sides:
        fewer = " at its own rank" if len(expected.wholes) > 1 else ""
        words.append(f"{' and '.join(LETTERS[side] for side in sides)}{fewer} ({what})")
    return "; ".join(words) or "-"
