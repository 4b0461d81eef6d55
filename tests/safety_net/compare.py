"""Compare two recordings: `compare.py BEFORE.json AFTER.json [--names map.toml] [--explained explained.toml]`.

Exit code 0: all equal, but for what is explained; 1: something is not; 2: the input is wrong.
"""

import argparse
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KINDS = {"tensor": "tensors", "score": "scores", "count": "counts", "encoded": "encoded sizes", "text": "texts"}

Recording = Mapping[str, Mapping[str, Sequence[Any]]]


class InputError(Exception):
    """A sentence about what is wrong with the input."""


@dataclass(frozen=True)
class Difference:
    """One name of one case in which two recordings differ."""

    how: str
    """`unequal`, `missing before` or `missing after`."""
    kind: str
    case: str
    name: str
    what: str
    """Both values, for the reader."""

    def __str__(self) -> str:
        return f"{self.how} {self.kind}: {self.case}: {self.name}{self.what}"


@dataclass(frozen=True)
class Rename:
    """What an old name is called now."""

    pattern: re.Pattern[str]
    replacement: str
    case: re.Pattern[str]


@dataclass(frozen=True)
class Explained:
    """Differences that are meant, and why."""

    defect: str
    reason: str
    case: re.Pattern[str]
    name: re.Pattern[str]
    how: tuple[str, ...]
    kinds: tuple[str, ...]

    def covers(self, difference: Difference) -> bool:
        """Whether the whole case and the whole name fit, and kind and manner are among those that are meant."""
        fits = self.case.fullmatch(difference.case) and self.name.fullmatch(difference.name)
        return bool(fits) and difference.how in self.how and difference.kind in self.kinds


def read_recording(path: Path) -> Recording:
    """Case name -> entry name -> entry.

    Raises:
        InputError: there is none.
    """
    try:
        found: Recording = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a recording: {error}.") from error
    if not found:
        raise InputError(f"{path} holds no cases.")
    return found


def _tables(path: Path, key: str, required: set[str], optional: set[str]) -> list[dict[str, Any]]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML: {error}.") from error
    if tree.keys() - {key}:
        raise InputError(f"{path} has unknown keys {sorted(tree.keys() - {key})}: expected [[{key}]].")
    for table in tree.get(key, []):
        if not required <= table.keys() <= required | optional:
            raise InputError(f"{path}: a [[{key}]] has keys {sorted(table)}: expected {sorted(required | optional)}.")
    return list(tree.get(key, []))


def _pattern(text: str, path: Path) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{path}: {text!r} is no regular expression: {error}.") from error


def read_names(path: Path) -> list[Rename]:
    """The map from old names to new ones.

    Raises:
        InputError: it is none.
    """
    tables = _tables(path, "rename", {"pattern", "replacement"}, {"case"})
    return [
        Rename(_pattern(own["pattern"], path), own["replacement"], _pattern(own.get("case", ".*"), path))
        for own in tables
    ]


def read_explained(path: Path) -> list[Explained]:
    """The differences that are meant.

    Raises:
        InputError: this is no such list.
    """
    tables = _tables(path, "explained", {"defect", "reason", "case", "name"}, {"how", "kinds"})
    result = []
    for own in tables:
        how, kinds = tuple(own.get("how", ["unequal"])), tuple(own.get("kinds", KINDS))
        if set(how) - {"unequal", "missing before", "missing after"} or set(kinds) - set(KINDS):
            raise InputError(f"{path}: [[explained]] {own['defect']}: unknown words in how = {how} or kinds = {kinds}.")
        patterns = (_pattern(own[key], path) for key in ("case", "name"))
        result.append(Explained(own["defect"], own["reason"], *patterns, how, kinds))
    return result


def renamed(case: str, entries: Mapping[str, Sequence[Any]], names: Sequence[Rename]) -> dict[str, Sequence[Any]]:
    """One case's entries under their new names; replacements act one after the other.

    Raises:
        InputError: two old names become the same new one.
    """
    result: dict[str, Sequence[Any]] = {}
    acting = [own for own in names if own.case.fullmatch(case)]
    for old, entry in entries.items():
        new = old
        for rename in acting:
            new = rename.pattern.sub(rename.replacement, new)
        if new in result:
            raise InputError(f"The map of names gives {new!r} to two old names of case {case}, {old!r} among them.")
        result[new] = entry
    return result


def differences(before: Recording, after: Recording, names: Sequence[Rename]) -> Iterator[Difference]:
    """Everything in which two recordings differ, in the order of the first."""
    for case in [*before, *(case for case in after if case not in before)]:
        old = renamed(case, before.get(case, {}), names)
        new = after.get(case, {})
        for name, entry in old.items():
            if name not in new:
                yield Difference("missing after", entry[0], case, name, "")
            elif list(entry) != list(new[name]):
                yield Difference("unequal", entry[0], case, name, _shown(entry, new[name]))
        for name, entry in new.items():
            if name not in old:
                yield Difference("missing before", entry[0], case, name, "")


def _shown(before: Sequence[Any], after: Sequence[Any]) -> str:
    if before[0] != after[0]:
        return f": a {before[0]} before, a {after[0]} after"
    if before[0] == "tensor":
        same = " (same bytes)" if before[4] == after[4] else ""
        was, now = (f"{own[1]}{own[2]}" for own in (before, after))
        return f": {was}, other bytes" if was == now else f": {was} before, {now} after{same}"
    if before[0] == "score":
        was, now = (None if own[1] is None else float.fromhex(own[1]) for own in (before, after))
        return f": {was!r} before, {now!r} after"
    return f": {before[1]!r} before, {after[1]!r} after"


def compared(before: Recording, after: Recording, names: Sequence[Rename]) -> Counter[str]:
    """By kind, how many names are in both recordings."""
    count: Counter[str] = Counter()
    for case in before.keys() & after.keys():
        old = renamed(case, before[case], names)
        count.update(entry[0] for name, entry in old.items() if name in after[case])
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument(
        "--names", type=Path, default=HERE / "names.toml", help="[[rename]]: pattern, replacement, case"
    )
    parser.add_argument("--explained", type=Path, default=HERE / "explained.toml", help="differences that are meant")
    parser.add_argument("--most", type=int, default=200, help="unexplained differences to print")
    words = parser.parse_args()
    try:
        before, after = read_recording(words.before), read_recording(words.after)
        names, explained = read_names(words.names), read_explained(words.explained)
        found, both = list(differences(before, after, names)), compared(before, after, names)
    except InputError as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    return report(found, both, explained, len(before.keys() & after.keys()), words.most)


def report(
    found: Sequence[Difference], both: Mapping[str, int], explained: Sequence[Explained], cases: int, most: int
) -> int:
    """Print what was compared, what differs and why; returns the exit code."""
    reasons = [next((own for own in explained if own.covers(difference)), None) for difference in found]
    wrong = [difference for difference, reason in zip(found, reasons, strict=True) if reason is None]
    for difference in wrong[:most]:
        print(difference)
    if len(wrong) > most:
        print(f"... and {len(wrong) - most} more (--most shows more)")
    tally = Counter((difference.kind, difference.how) for difference in found)
    print(f"{cases} cases in both recordings")
    for kind, plural in KINDS.items():
        unequal, gone, fresh = (tally[kind, how] for how in ("unequal", "missing after", "missing before"))
        told = f"{both.get(kind, 0)} {plural} compared, {unequal} unequal"
        print(f"{told}, {gone} missing after, {fresh} missing before")
    for own in explained:
        covered = sum(reason is own for reason in reasons)
        print(f"explained by {own.defect}: {covered} ({own.reason})" + ("" if covered else "  <- explains nothing"))
    print(f"{len(found) - len(wrong)} differences explained, {len(wrong)} not")
    if not any(both.values()):
        print("nothing was compared")
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
