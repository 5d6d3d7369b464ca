"""Configuration: preset, then file, then `-s a.b=v`, then the command line's own flags."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from backends import BACKENDS
from bench.datasets import DATASETS, UNITS
from bench.errors import UsageError
from bench.kinds import ROLES
from bench.registry import check_name, resolve, suggestion
from bench.sections import MetricsConfig, TrackingConfig, VerifyConfig
from methods import METHODS

PRESETS = Path(__file__).parent / "presets"
DEFAULT_PRESET = "paper"
OWN_PRESETS = {"celebahq": "celebahq", "elpv": "elpv"}
"""Dataset -> the preset with the settings for it, where these are not `DEFAULT_PRESET`'s."""
COMPONENTS = {"dataset": DATASETS, "method": METHODS, "backend": BACKENDS}


class RunConfig(BaseModel):
    """One suite: the matrix dataset x method x backend, and the options of its components.

    Attributes:
        limit: images a dataset, spread evenly; 0 is all.
        seed: of all noise.
        batch_size: slots of the search.
        refill: give a finished sample's slot to the next one at once; otherwise, as in the published code,
            a batch stays until all of it is done.
        device: "auto", "cpu" or "cuda".
        targets: reference values in [0, 1] (or all in the attribute's own unit, see `UNITS`) that every image is
            explained for, instead of the dataset's own target.
        path: how these are solved: each from the image ("independent"), or each from the solution before it, away
            from the image's own prediction ("continuation").
        weights: networks that replace the dataset's own, by role; see `bench.checkpoints.load_network`.
        reconstructions: save what every method makes of the unchanged image too.
        options: option tables of datasets, methods and backends, by component name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: tuple[str, ...] = ("square",)
    method: tuple[str, ...] = ("ac-re", "diffae-re")
    backend: tuple[str, ...] = ("eager",)
    limit: int = Field(16, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(8, ge=1, le=1024)
    refill: bool = True
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    targets: tuple[float, ...] = ()
    path: Literal["independent", "continuation"] = "independent"
    weights: dict[str, str] = {}
    reconstructions: bool = False
    metrics: MetricsConfig = MetricsConfig()
    tracking: TrackingConfig = TrackingConfig()
    verify: VerifyConfig = VerifyConfig()
    options: dict[str, dict[str, Any]] = {}

    @field_validator("dataset", "method", "backend")
    @classmethod
    def _not_empty(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("at least one is needed")
        return tuple(dict.fromkeys(names))

    @field_validator("targets")
    @classmethod
    def _reference_values(cls, targets: tuple[float, ...]) -> tuple[float, ...]:
        for value in targets:
            if not 0 <= value <= 1:
                raise ValueError(f"{value} is outside [0, 1]")
        if len({f"{value:g}" for value in targets}) < len(targets):
            raise ValueError("a value is there twice; they have to differ in six digits")
        return tuple(sorted(targets))

    @field_validator("path")
    @classmethod
    def _path_of_targets(cls, path: str, info: ValidationInfo) -> str:
        if path == "continuation" and info.data.get("targets") == ():
            raise ValueError("a continuation goes through several reference values; give them with --target")
        return path


def load_toml(path: Path) -> dict[str, Any]:
    """Parse a configuration file.

    Raises:
        UsageError: missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def find_preset(name: str) -> Path:
    """A preset's file, by name or path.

    Raises:
        UsageError: neither a known preset nor a file.
    """
    preset = PRESETS / f"{name}.toml"
    if preset.is_file():
        return preset
    if Path(name).is_file():
        return Path(name)
    known = [path.stem for path in PRESETS.glob("*.toml")]
    raise UsageError(f"unknown preset or file {name!r} for --config; {suggestion(name, known)}")


def default_preset(datasets: Sequence[str]) -> str:
    """The preset of a run for which none was named.

    Raises:
        UsageError: the datasets have different ones.
    """
    presets = {OWN_PRESETS.get(name, DEFAULT_PRESET): name for name in datasets}
    if len(presets) > 1:
        names = " and ".join(map(repr, presets.values()))
        raise UsageError(f"datasets {names} have settings of their own; run them apart, or name a preset with --config")
    return next(iter(presets), DEFAULT_PRESET)


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """'a.b=v' to (["a", "b"], value); the value is JSON where it parses, else a string.

    Raises:
        UsageError: no '='.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {text!r} is not of the form section.key=value")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        parsed = value
    return key.split("."), parsed


def _assign(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UsageError(f"--set {'.'.join(keys)}: {key!r} is a value, not a section")
    tree[keys[-1]] = value


def _component_sections(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Move sections named after components into `options`; refuse keys that nobody knows."""
    components = {name for table in COMPONENTS.values() for name in table}
    fields = set(RunConfig.model_fields) - {"options"}
    tree: dict[str, Any] = {"options": {}}
    for key, value in raw.items():
        if key in fields:
            tree[key] = value
        elif key in components and isinstance(value, dict):
            tree["options"][key] = value
        else:
            raise UsageError(f"unknown configuration key {key!r}; {suggestion(key, fields | components)}")
    return tree


def describe(error: ValidationError, where: str = "") -> str:
    """The first validation problem as one clause."""
    first = error.errors()[0]
    key = ".".join([*([where] if where else []), *map(str, first["loc"])])
    if first["type"] == "extra_forbidden":
        return f"unknown configuration key {key!r}"
    text = first["msg"].removeprefix("Value error, ")
    return f"{key}: {text} (got {first['input']!r})"


def _in_unit_range(targets: Sequence[Any], datasets: Sequence[str]) -> list[Any]:
    """Reference values in [0, 1]; where one is above 1, all are in the attribute's own unit (years, grey levels).

    Raises:
        UsageError: some could be meant either way, or the datasets have no unit, or different ones.
    """
    above = [value for value in targets if isinstance(value, int | float) and value > 1]
    if not above:
        return list(targets)
    units = {UNITS.get(name) for name in datasets}
    if None in units or len(units) != 1:
        raise UsageError(f"targets: {above[0]:g} is outside [0, 1], and {', '.join(datasets)} give it no unit")
    if any(0 < value < 1 for value in targets):
        raise UsageError(f"targets: {above[0]:g} is outside [0, 1]; give all values in [0, 1], or all in whole units")
    (unit,) = units
    if max(above) > unit:
        raise UsageError(f"targets: {max(above):g} is outside [0, 1], and above {unit}, the most {datasets[0]} has")
    return [value / unit for value in targets]


def build_config(config: str | None, assignments: list[str], flags: Mapping[str, Any]) -> RunConfig:
    """Merge all sources and validate names and top-level keys; imports no component.

    Args:
        config: preset name or file; None is the dataset's default preset.
        assignments: `-s` texts.
        flags: command-line flags that were given, by field name.

    Raises:
        UsageError: one sentence naming the key.
    """
    given = [parse_assignment(text) for text in assignments]
    if config is None:
        asked = flags.get("dataset") or {tuple(keys): value for keys, value in given}.get(("dataset",))
        config = default_preset(asked if isinstance(asked, list | tuple) else ())
    raw = load_toml(find_preset(config))
    for keys, value in given:
        _assign(raw, keys, value)
    raw.update(flags)
    if isinstance(raw.get("targets"), list | tuple):
        names = raw.get("dataset", RunConfig.model_fields["dataset"].default)
        raw["targets"] = _in_unit_range(raw["targets"], names if isinstance(names, list | tuple) else ())
    try:
        parsed = RunConfig(**_component_sections(raw))
    except ValidationError as error:
        raise UsageError(describe(error)) from error
    for kind, table in COMPONENTS.items():
        for name in getattr(parsed, kind):
            check_name(table, name, kind)
    for role in parsed.weights:
        if role not in ROLES:
            raise UsageError(f"unknown configuration key 'weights.{role}'; {suggestion(role, ROLES)}")
    return parsed


def component_options(config: RunConfig, kind: str, name: str) -> BaseModel:
    """A component's validated options (imports its module).

    Raises:
        UsageError: an unknown key or a bad value, named as section.key.
    """
    component = resolve(COMPONENTS[kind], name, kind)
    given = config.options.get(name, {})
    known = component.options.model_fields
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"unknown configuration key '{name}.{key}'; {suggestion(key, known, f'{name}.')}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{name}.{key} is {value}; a finite number is needed")
    try:
        return component.options(**given)
    except ValidationError as error:
        raise UsageError(describe(error, name)) from error
