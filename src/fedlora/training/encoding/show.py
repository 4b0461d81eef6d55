# SPDX-License-Identifier: Apache-2.0
"""What a model will be given and what it will learn, as lines of text: tokens, lengths, what is cut, who owns what."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from fedlora.training.data.examples import Texts
from fedlora.training.encoding.rendered_tokens import RenderedTokens
from fedlora.training.encoding.tokens import Tokens

_GIVEN, _LEARNED, _TEXT = "  given   | ", "  learned | ", "  text    | "
_BETWEEN: Final = "·"
"""Stands between two tokens."""
_MOST_TOKENS: Final = 160
"""Of one run of tokens; of a longer one its middle is left out."""
_MOST_CLIENTS: Final = 20
_UNREADABLE: Final = "\ufffd"
_QUANTILES: Final = {"least": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}


def show_rendered(made: RenderedTokens, tokenizer: Any, part: str, *, count: int = 3) -> list[str]:
    """Examples of language modelling: how long, what is cut, and the first ones token by token.

    Args:
        made: the rendered examples.
        tokenizer: of the base.
        part: of which the examples are, such as `training`.
        count: how many examples to show.
    """
    tokens = made.tokens
    return [
        f"{len(made.lengths):,} {part} examples, {int(tokens.lengths.sum()):,} tokens, of which "
        f"{int(tokens.supervised_lengths.sum()):,} are learned.",
        *_length_lines("tokens of an example", made.lengths),
        *_length_lines("learned tokens", tokens.supervised_lengths),
        *made.told(part),
        *(line for index in range(min(count, len(tokens))) for line in _example_lines(made, index, tokenizer)),
    ]


def show_labelled(
    texts: Texts, tokens: Tokens, labels: Sequence[str], tokenizer: Any, part: str, *, count: int = 3
) -> list[str]:
    """Labelled texts: how long, how many of each label, and the first ones token by token.

    Args:
        texts: the examples.
        tokens: of them, cut.
        labels: their names.
        tokenizer: of the base.
        part: of which the examples are, such as `training`.
        count: how many examples to show.
    """
    numbers = numpy.bincount(texts.labels, minlength=len(labels)).tolist()
    rows = sorted(zip(labels, numbers, strict=True), key=lambda row: -row[1])
    shown = [f"  {number:7,}  {_readable(name)}" for name, number in rows[:_MOST_CLIENTS]]
    more = [f"  and {len(rows) - _MOST_CLIENTS:,} more labels"] if len(rows) > _MOST_CLIENTS else []
    examples = []
    for index in range(min(count, len(tokens))):
        name = _readable(labels[texts.labels[index]])
        examples += [f"Example {index + 1}, {len(tokens[index])} tokens, label {name}:"]
        examples += [_TEXT + _tokens(tokens[index], tokenizer)]
    return [
        f"{len(texts):,} {part} examples with {len(labels)} labels, {int(tokens.lengths.sum()):,} tokens.",
        *_length_lines("tokens of a text, cut", tokens.lengths),
        "Examples of each label:",
        *shown,
        *more,
        *examples,
    ]


def show_owners(owned: Mapping[str, NDArray[numpy.int64]], tokens: Tokens, names: Sequence[str] = ()) -> list[str]:
    """Who owns how many examples and tokens, the largest client first.

    Args:
        owned: of each client, its examples among `tokens`.
        tokens: of all examples.
        names: of the labels, where there are labels to be counted.
    """
    sizes = sorted(owned.items(), key=lambda item: (-len(item[1]), item[0]))
    learned = tokens.lengths if tokens.supervised is None else tokens.supervised_lengths
    what = "tokens" if tokens.supervised is None else "learned tokens"
    width = max((len(_readable(client)) for client, _ in sizes[:_MOST_CLIENTS]), default=0)
    lines = [f"{len(owned):,} clients."]
    lines += _length_lines("examples of a client", numpy.array([len(indices) for indices in owned.values()]))
    for client, indices in sizes[:_MOST_CLIENTS]:
        line = f"  {_readable(client):<{width}}  {len(indices):7,} examples {int(learned[indices].sum()):10,} {what}"
        if names:
            often = Counter(tokens.labels[indices].tolist()).most_common(3)
            line += "  " + ", ".join(f"{_readable(names[number])} {count:,}" for number, count in often)
        lines.append(line)
    if len(sizes) > _MOST_CLIENTS:
        lines.append(f"  and {len(sizes) - _MOST_CLIENTS:,} more clients")
    return lines


def _example_lines(made: RenderedTokens, index: int, tokenizer: Any) -> list[str]:
    ids, mask = made.tokens[index], made.tokens.mask(index)
    number, cut = int(made.kept[index]), int(made.lengths[made.kept[index]]) - len(ids)
    told = f", {cut} cut away" if cut else ""
    lines = [f"Example {number + 1}, {len(ids)} tokens{told}, {int(mask.sum())} learned:"]
    borders = numpy.flatnonzero(numpy.diff(mask)) + 1
    for run, learned in zip(numpy.split(ids, borders), numpy.split(mask, borders), strict=True):
        lines.append((_LEARNED if learned[0] else _GIVEN) + _tokens(run, tokenizer))
    return lines


def _tokens(ids: NDArray[numpy.int32], tokenizer: Any) -> str:
    """Tokens as readable text with a point between two."""
    pieces = [_readable(piece) for piece in _decoded(ids.tolist(), tokenizer)]
    if len(pieces) > _MOST_TOKENS:
        half, gone = _MOST_TOKENS // 2, len(pieces) - 2 * (_MOST_TOKENS // 2)
        pieces = [*pieces[:half], f" ({gone} tokens) ", *pieces[-half:]]
    return _BETWEEN.join(pieces)


def _decoded(ids: Sequence[int], tokenizer: Any) -> Iterable[str]:
    """The text of each token; tokens that are parts of one character come together."""
    waiting: list[int] = []
    for token in ids:
        waiting.append(token)
        text = tokenizer.decode(waiting, clean_up_tokenization_spaces=False)
        if _UNREADABLE not in text or len(waiting) == 4:  # no character has more bytes
            yield text
            waiting = []
    if waiting:
        yield tokenizer.decode(waiting, clean_up_tokenization_spaces=False)


def _readable(text: str) -> str:
    """Text on one line: ends of lines as a sign, other control characters by their number."""
    signs = ("⏎" if sign == "\n" else sign if _is_shown(sign) else f"\\u{ord(sign):04x}" for sign in text)
    return "".join(signs)


def _is_shown(sign: str) -> bool:
    return unicodedata.category(sign) not in ("Cc", "Cs", "Zl", "Zp")


def _length_lines(what: str, lengths: NDArray[Any]) -> list[str]:
    if not len(lengths):
        return []
    found = numpy.quantile(lengths, list(_QUANTILES.values()), method="nearest")
    told = ", ".join(f"{name} {int(value):,}" for name, value in zip(_QUANTILES, found, strict=True))
    return [f"{what[0].upper()}{what[1:]}: {told}; mean {float(numpy.mean(lengths)):,.1f}."]
