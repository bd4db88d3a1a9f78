"""Reading a run's config: one YAML file, `key.sub=value` overrides, checked before anything is loaded."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from alignment.errors import ConfigError


class Section(BaseModel):
    """A part of a config: unknown keys are errors, every field carries its own description."""

    model_config = ConfigDict(extra="forbid")


T = TypeVar("T", bound=BaseModel)


def load_config(kind: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """The config in `path` (or the defaults) with `overrides` applied, validated as `kind`.

    Raises ConfigError with one line a fault: the place, what is wrong, and the nearest known key.
    """
    values = read_yaml(path) if path else {}
    for override in overrides:
        apply_override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        raise ConfigError("\n".join(where + explain(kind, fault) for fault in error.errors())) from None


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"no config file {path}{hint}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; give the YAML file in it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(values).__name__}")
    return values or {}


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `key.sub=value` in place; the value is read as YAML (so 1e-4, true, [a, b] and null work)."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key.sub=value")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        values = child
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from None
    values[last] = as_number(value)


def as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; every user means a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def explain(kind: type[BaseModel], fault: Any) -> str:
    """One pydantic fault as one line that names the place and the remedy."""
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = known_keys(kind)
        near = difflib.get_close_matches(place, known, n=1, cutoff=0.5) or difflib.get_close_matches(
            place.rpartition(".")[2], known, n=1, cutoff=0.5
        )
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
        return f"unknown key {place!r}{hint}"
    if fault["type"] == "missing":
        return f"key {place!r} is required"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        near = difflib.get_close_matches(str(fault["input"]), choices, n=1, cutoff=0.5)
        message += f"; did you mean {near[0]!r}?" if near else ""
    got = f" (got {fault['input']!r})" if not isinstance(fault["input"], dict) else ""
    return f"{place}: {message}{got}" if place else f"{message}"


def known_keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a config class, sections and leaves."""
    keys: list[str] = []
    for name, field in kind.model_fields.items():
        keys.append(prefix + name)
        for option in (field.annotation, *get_args(field.annotation)):
            if isinstance(option, type) and issubclass(option, BaseModel):
                keys += known_keys(option, f"{prefix}{name}.")
    return keys


def to_yaml(config: BaseModel) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
