# SPDX-License-Identifier: Apache-2.0
"""A study from its file: sections checked, sizes and overrides laid on top, axes and variants spelled out."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedlora.app.config.paths import with_absolute_paths
from fedlora.app.config.schema import Config
from fedlora.app.config.sections import checked, override_key, read_tree, sections
from fedlora.app.study.plan import Rate, Setting, Study, Tree, Variant, data_path, layered, require_sound
from fedlora.app.study.settings import StudySections, TuningSettings, VariantSection
from fedlora.errors import ConfigError, nearest

_RESERVED = {
    "run.seed": "study.seed and study.extra_seeds say it",
    "split.seed": "study.draws says it",
    "run.name": "cells are named by their content",
}
_USUAL = "small"
Absolute = Callable[[Mapping[str, Any]], Tree]
"""Makes the paths of a layer of keys absolute."""


def named_studies() -> dict[str, Path]:
    """Name -> file of every study that comes with fedlora, such as `lora-a2/accuracy`."""
    home = Path(str(files("fedlora"))) / "studies"
    return {path.relative_to(home).with_suffix("").as_posix(): path for path in sorted(home.rglob("*.toml"))}


def find_study(name: str) -> Path:
    """The file of a study, by the name of one that comes with fedlora or by its path.

    Raises:
        ConfigError: there is no such study.
    """
    if name in named_studies():
        return named_studies()[name]
    if Path(name).suffix == ".toml" or Path(name).is_file():
        return Path(name)
    raise ConfigError(f"There is no study {name!r}: give the path of a TOML file, or {nearest(name, named_studies())}")


def read_study(path: Path, size: str | None = None, overrides: Sequence[str] = (), data: Path | None = None) -> Study:
    """A study from its file.

    Args:
        path: of the file; its relative paths are seen from its folder.
        size: which of its sizes; None: small, where it has that.
        overrides: `section.key=value`, of the study or of the config that all cells have in common; their paths are
            seen from the working directory.
        data: the folder from which relative paths of data sets (data.path) in the file are seen instead.

    Raises:
        ConfigError: a key or a value is wrong, or the study makes no sense.
    """
    above: dict[str, Any] = {}
    for override in overrides:
        override_key(above, override)
    return make_study(read_tree(path), path.absolute().parent, size, above, data)


def make_study(
    tree: Tree, folder: Path, size: str | None = None, above: Tree | None = None, data: Path | None = None
) -> Study:
    """A study from nested mappings; see `read_study`."""
    below = dict(tree)
    sizes = below.pop("size", {})
    chosen = _size(sizes, size)
    of_study = {"study", "tuning", "axes", "variant"}
    below, over = _laid(below, sizes.get(chosen, {})), above or {}
    ours = {name: value for name, value in _laid(below, over).items() if name in of_study}
    given = checked(StudySections, ours)
    of_data = _laid(below, over).get("data")
    source = of_data.get("source") if isinstance(of_data, Mapping) else None

    def absolute(keys: Mapping[str, Any]) -> Tree:
        layer = keys.get("data")
        here = layer.get("source", source) if isinstance(layer, Mapping) else source
        return with_absolute_paths(data_path(keys, str(data) if data else None), folder, here)

    base = absolute({name: value for name, value in below.items() if name not in of_study})
    set_here = {name: value for name, value in over.items() if name not in of_study}
    base = _laid(base, with_absolute_paths(set_here, Path.cwd(), source))
    axes = {name: _points(name, value, absolute) for name, value in _axes(given.axes.options).items()}
    variants = tuple(_variant(entry, given.tuning, absolute) for entry in given.variant)
    _require_points(variants, [point for points in axes.values() for point in points])
    _require_free(base, set_here, axes, variants)
    settings = tuple(_settings(axes))
    study = Study(
        about=given.study,
        size=chosen,
        base=base,
        settings=settings,
        variants=variants,
        tuning=given.tuning,
        tuned_at=_tuned_at(list(axes), settings, given.tuning),
    )
    require_sound(study)
    return study


def _size(sizes: Mapping[str, Any], asked: str | None) -> str:
    if asked is not None and asked not in sizes:
        there = nearest(asked, sizes) if sizes else "this study has only one; leave --size out."
        raise ConfigError(f"There is no size {asked!r}: {there}")
    return asked if asked is not None else _USUAL if _USUAL in sizes else next(iter(sizes), "")


def _laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections on top of one another, key by key."""
    whole = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(whole.get(name), Mapping)
        whole[name] = {**whole[name], **value} if both else value
    return whole


def _axes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Axes by name, with `[axes] split.alpha = [...]` as `"split.alpha" = [...]`."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value and all(isinstance(inner, list) for inner in value.values()):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _points(axis: str, value: Any, absolute: Absolute) -> dict[str, Tree]:
    """The points of an axis by what they are called, each with its keys."""
    if isinstance(value, list) and value:
        _, dot, key = axis.partition(".")
        if not (dot and key):
            raise ConfigError(f"axes.{axis} is a list, but {axis!r} is no key of a config, such as 'adapter.rank'.")
        return {f"{axis}={_shown(each)}": absolute(keys_of({axis: each}, f"axes.{axis}")) for each in value}
    if isinstance(value, Mapping) and value and all(isinstance(inner, Mapping) for inner in value.values()):
        return {point: absolute(keys_of(inner, f"axes.{axis}.{point}")) for point, inner in value.items()}
    raise ConfigError(
        f"axes.{axis} is {value!r}; expected a list of values for a key of the config, or named points, each with its "
        f"keys."
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def keys_of(options: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Keys written as `"section.key" = value`, as tables, or as `method = "name"`, by section.

    Raises:
        ConfigError: something is no key of a config.
    """
    tree: dict[str, Any] = {}
    known = sections(Config)
    for name, value in options.items():
        section, _, key = name.partition(".")
        if section not in known:
            raise ConfigError(f"{place} has an unknown key {name!r}: {nearest(section, known)}")
        if key:
            tree.setdefault(section, {})[key] = value
        elif section == "method" and isinstance(value, str):
            tree.setdefault(section, {})["name"] = value
        elif isinstance(value, Mapping):
            tree[section] = {**tree.get(section, {}), **value}
        elif section == "stage" and isinstance(value, list):
            tree[section] = value
        else:
            raise ConfigError(f"{place}.{name} is {value!r}; expected the keys of a section.")
    return tree


def _variant(given: VariantSection, tuning: TuningSettings | None, absolute: Absolute) -> Variant:
    keys = absolute(keys_of(given.options, f"variant {given.name}"))
    at = None if given.at is None else tuple(given.at)
    rates: tuple[Rate, ...] = ()
    listed = given.lr is not None or given.lr_b_ratio is not None
    if listed and (tuning is None or given.rate is not None):
        why = "there is no section [tuning]" if tuning is None else f"its rate is given ({given.rate:g})"
        raise ConfigError(f"The variant {given.name!r} has rates to choose from, but {why}: leave one out.")
    if tuning is not None and given.rate is None:
        ratios: Sequence[float | None] = tuning.lr_b_ratio if given.lr_b_ratio is None else given.lr_b_ratio
        rates = tuple(dict.fromkeys(Rate(lr, ratio) for lr in given.lr or tuning.lr for ratio in ratios or [None]))
    fixed = Rate(given.rate) if given.rate is not None else None
    return Variant(given.name, keys, rates, fixed, given.bound, given.seed_offset, at)


def _settings(axes: Mapping[str, Mapping[str, Tree]]) -> list[Setting]:
    """Every combination of points; the last axis turns fastest."""
    found = []
    for points in itertools.product(*(of_axis.items() for of_axis in axes.values())):
        names = tuple(name for name, _ in points)
        found.append(Setting(", ".join(names), names, layered(*(keys for _, keys in points))))
    return found


def _tuned_at(axes: Sequence[str], settings: Sequence[Setting], tuning: TuningSettings | None) -> dict[str, str] | None:
    """Where the rates of each setting are chosen: at the first point of every axis that chooses none for itself."""
    if tuning is None:
        return None
    for name in tuning.shared_over:
        if name not in axes:
            raise ConfigError(f"tuning.shared_over names {name!r}, which is no axis: {nearest(name, axes)}")
    first = settings[0].points
    by_points = {setting.points: setting.name for setting in settings}
    return {
        setting.name: by_points[
            tuple(
                first[place] if axis in tuning.shared_over else setting.points[place] for place, axis in enumerate(axes)
            )
        ]
        for setting in settings
    }


def _require_points(variants: Sequence[Variant], points: Sequence[str]) -> None:
    for variant in variants:
        for point in variant.at or ():
            if point not in points:
                there = nearest(point, points) if points else "the study has no axes."
                raise ConfigError(
                    f"The variant {variant.name!r} is at {point!r}, which is no point of an axis: {there}"
                )


def _require_free(
    base: Tree, set_here: Tree, axes: Mapping[str, Mapping[str, Tree]], variants: Sequence[Variant]
) -> None:
    """Refuse keys that the study sets itself, and overrides that would have no effect."""
    chosen = {variant.name: _chosen(variant) for variant in variants}
    of_any = {name for names in chosen.values() for name in names}
    layers: list[tuple[str, Tree, set[str]]] = [("The study's config", base, set())]
    layers += [(f"axes.{axis}", keys, of_any) for axis, points in axes.items() for keys in points.values()]
    layers += [(f"The variant {variant.name!r}", variant.keys, chosen[variant.name]) for variant in variants]
    for place, keys, taken in layers:
        for name in _names(keys):
            if name in _RESERVED:
                raise ConfigError(f"{place} sets {name}: leave it out; {_RESERVED[name]}.")
            if name in taken:
                raise ConfigError(f"{place} sets {name}, which the study chooses: leave it out.")
    for axis, points in axes.items():
        varied = {name for keys in points.values() for name in _names(keys)}
        for name in _names(set_here):
            if name in varied:
                raise ConfigError(f"--set {name} would have no effect, since the axis {axis} sets it: leave it out.")


def _chosen(variant: Variant) -> set[str]:
    """The keys that a variant's rates set."""
    rates = [*variant.rates, *([variant.given] if variant.given else [])]
    names = {"train.lr"} if rates else set()
    return names | {"train.lr_b_ratio" for rate in rates if rate.ratio is not None}


def _names(keys: Tree) -> list[str]:
    return [f"{section}.{key}" for section, of in keys.items() if isinstance(of, Mapping) for key in of]
