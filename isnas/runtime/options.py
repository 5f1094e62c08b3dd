"""Options: small frozen dataclasses that check themselves, and how the options of a run are composed of them.

Each option is written once, as a field of the class of the part that it is for; the class's docstring is its help. A
`Schema` composes such classes. There every option has one flat name, the same in Python, on the command line and in a
run's record, while each part of the program is handed the options of its own part only.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from .errors import UserError, short, suggestion

QUICK = "quick"
"""Name of the preset that every schema has: the defaults."""


LARGEST = 2**63 - 1
"""The largest whole number of an option: PyTorch knows no larger ones."""


@dataclass(frozen=True)
class BaseOptions:
    """Options of one part: ranges that are checked when they are made."""

    least: ClassVar[dict[str, float]] = {}
    """Least allowed values of a class's own options; those that are not here are checked where they are used."""
    most: ClassVar[dict[str, float]] = {}
    """Largest allowed values."""
    above_zero: ClassVar[tuple[str, ...]] = ()
    """Options that must be above 0."""
    below_one: ClassVar[tuple[str, ...]] = ()
    """Options that must be below 1."""
    given: ClassVar[tuple[str, ...]] = ()
    """Fields that are not the user's to choose: they follow from the data or from the method."""
    incidental: ClassVar[tuple[str, ...]] = ()
    """Options that leave the results as they are: a run may go on with other values of these."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        _check_ranges(self)


@dataclass(frozen=True)
class Nested:
    """A schema inside another one, such as the recipe of the training that follows a search.

    Parameters
    ----------
    schema : Schema
    prefix : str
        Stands before the flat names of its options.
    shared : tuple of str
        Parts that are those of the outer schema, as they are.
    follows : tuple of str
        Parts whose options are those of the same part of the outer schema where they are not given.
    switch : str
        The option that is 0 when the whole is not wanted.
    """

    schema: Schema
    prefix: str
    shared: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    switch: str = ""


class Schema:
    """The parts that some options are composed of.

    Parameters
    ----------
    parts : mapping of str to type of BaseOptions or Nested
        By the name of the attribute that holds the part.
    defaults : mapping of str to values, optional
        Defaults by flat name, where they are others than the classes'.
    presets : mapping of str to mapping, optional
        Values by flat name of each preset beside `QUICK`, which changes nothing.
    fixed : mapping of str to values, optional
        Options that nobody chooses, by the name of the field.
    """

    def __init__(
        self,
        parts: Mapping[str, type[BaseOptions] | Nested],
        *,
        defaults: Mapping[str, Any] | None = None,
        presets: Mapping[str, Mapping[str, Any]] | None = None,
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self.parts = dict(parts)
        self.defaults = dict(defaults or {})
        self.fixed = dict(fixed or {})
        self.presets: dict[str, Mapping[str, Any]] = {QUICK: {}, **(presets or {})}
        self.fields: dict[str, OptionField] = {}
        self._homes: dict[str, tuple[str, str]] = {}  # part and name there, by flat name
        for part, name, field in self._all_fields():
            if field.name in self.fields:
                raise ValueError(f"two parts have an option {field.name!r}")
            self.fields[field.name] = field
            self._homes[field.name] = (part, name)
        for values in (self.defaults, *self.presets.values()):
            self.check_names(values)

    def _all_fields(self) -> Iterator[tuple[str, str, OptionField]]:
        """Yield (part, name in the part, field by its flat name)."""
        for part, what in self.parts.items():
            if not isinstance(what, Nested):
                for field in option_fields(what):
                    if field.name in self.fixed:
                        continue
                    default = self.defaults.get(field.name, field.default)
                    yield part, field.name, dataclasses.replace(field, default=default, part=part)
                continue
            yield (
                part,
                "preset",
                OptionField(
                    f"{what.prefix}preset",
                    self.defaults.get(f"{what.prefix}preset", QUICK),
                    "Values of these options where they are not given.",
                    str,
                    tuple(what.schema.presets),
                    optional=False,
                    part=part,
                ),
            )
            for name, field in what.schema.fields.items():
                if field.part in what.shared:
                    continue
                flat = what.prefix + name
                known = flat in self.defaults
                yield (
                    part,
                    name,
                    dataclasses.replace(
                        field,
                        name=flat,
                        default=self.defaults[flat] if known else None,
                        help=field.help
                        if known or field.part not in what.follows
                        else f"{field.help} By default that of the search.",
                        optional=True,
                        part=part,
                    ),
                )

    def check_names(self, values: Mapping[str, Any]) -> None:
        """Raise a `UserError` that names the first of these options that there is not, if any."""
        for name in values:
            if name not in self.fields:
                raise UserError(
                    f"there is no option {name}{suggestion(name, self.fields)}; "
                    f"there are {', '.join(self.fields)}"
                )

    def compose(self, preset: str = QUICK, **values: Any) -> Composition:
        """Return the options of a preset, with these values by flat name.

        Raises
        ------
        UserError
            When there is no such preset or option, or a value is out of its range.
        """
        if preset not in self.presets:
            raise UserError(
                f"preset must be one of {', '.join(self.presets)}, got {preset!r}"
                f"{suggestion(preset, self.presets)}"
            )
        self.check_names(values)
        values = {name: plain(value) for name, value in values.items()}
        flat = {**self.defaults, **self.presets[preset], **values}
        made: dict[str, Any] = {}
        for part, what in self.parts.items():
            own = {
                name: flat[full]
                for full, (home, name) in self._homes.items()
                if home == part and full in flat
            }
            if not isinstance(what, Nested):
                names = {field.name for field in dataclasses.fields(what)}
                fixed = {name: value for name, value in self.fixed.items() if name in names}
                made[part] = what(**own, **fixed)
                continue
            made[part] = self._nested(what, own, made)
        return Composition(self, made, {name: flat[name] for name in flat if name in self.fields})

    def _nested(
        self, nested: Nested, own: Mapping[str, Any], made: Mapping[str, Any]
    ) -> Composition | None:
        own = {name: value for name, value in own.items() if value is not None}
        wanted = not (nested.switch and own.get(nested.switch) == 0)
        if not wanted:
            del own[nested.switch]  # the other values are checked all the same
        preset = own.pop("preset", QUICK) if "preset" in own else QUICK
        values = dict(nested.schema.presets.get(preset, {}))
        inherited: dict[str, Any] = {}
        for name, field in nested.schema.fields.items():
            if field.part in nested.shared:
                inherited[name] = getattr(made[field.part], name)
                values.pop(name, None)
            elif field.part in nested.follows and name not in values:
                inherited[name] = getattr(made[field.part], name)
        made_of_it = nested.schema.compose(preset, **{**inherited, **own})
        return made_of_it if wanted else None

    def from_json(self, data: Any) -> Composition:
        """Return the options that `Composition.to_json` has written.

        Raises
        ------
        UserError
            When the data name an option that there is not, or a value is not one of it.
        """
        if not isinstance(data, dict):
            raise UserError(f"options must be an object with names and values, got {data!r:.60}")
        return self.compose(**data)


class Composition:
    """Options composed of parts; each part is an attribute.

    Parameters
    ----------
    schema : Schema
    parts : mapping of str to BaseOptions, Composition or None
    chosen : mapping of str to values
        The given values, by flat name.
    """

    def __init__(self, schema: Schema, parts: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
        self.schema = schema
        self.parts = dict(parts)
        self._chosen = dict(chosen)

    def __getattr__(self, name: str) -> Any:
        """Return a part."""
        parts = self.__dict__.get("parts", {})
        if name not in parts:
            raise AttributeError(
                f"these options have no part {name!r}; there are {', '.join(parts)}"
            )
        return parts[name]

    def __eq__(self, other: object) -> bool:
        """Return whether the values of all options are the same."""
        return isinstance(other, Composition) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the values of all options."""
        return f"Composition({self.to_json()})"

    def to_json(self) -> dict[str, Any]:
        """Return all options by flat name, as plain data for JSON."""
        flat: dict[str, Any] = {}
        for name, (part, own) in self.schema._homes.items():
            if isinstance(self.schema.parts[part], Nested):
                flat[name] = self._chosen.get(name, self.schema.fields[name].default)
            else:
                flat[name] = getattr(self.parts[part], own)
        return flat

    def replace(self, **values: Any) -> Composition:
        """Return the options with other values of some, by flat name; see `Schema.compose` for errors."""
        return self.schema.compose(**{**self.to_json(), **values})

    def incidental(self) -> set[str]:
        """Return the flat names of the options that leave the results as they are."""
        return {
            name
            for name, (part, own) in self.schema._homes.items()
            if isinstance(self.parts[part], BaseOptions) and own in self.parts[part].incidental
        }


def plain(value: Any) -> Any:
    """Return an option's value as its plain kind: a path, a number of NumPy's, a device or a list are given, too."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return tuple(value)
    return str(value) if isinstance(value, torch.device) else value


def _check_ranges(options: BaseOptions) -> None:
    classes = [cls for cls in type(options).__mro__ if issubclass(cls, BaseOptions)]
    least_of = {name: least for cls in classes for name, least in cls.least.items()}
    most_of = {name: most for cls in classes for name, most in cls.most.items()}
    above_zero = {name for cls in classes for name in cls.above_zero}
    below_one = {name for cls in classes for name in cls.below_one}
    for field in option_fields(type(options), given=True):
        value = getattr(options, field.name)
        if value is None and field.optional:
            continue
        if field.several:
            fits = isinstance(value, tuple) and all(_fits(v, field.type) for v in value)
        else:
            fits = _fits(value, field.type)
        if not fits:
            raise UserError(f"{field.name} must be {_in_words(field)}, got {short(value)}")
        if isinstance(value, float) and not abs(value) < float("inf"):
            raise UserError(f"{field.name} must be finite, got {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise UserError(f"{field.name} must be at most {LARGEST}, got {short(number)}")
        least = least_of.get(field.name)
        if least is not None and value < least:
            raise UserError(f"{field.name} must be at least {least}, got {short(value)}")
        most = most_of.get(field.name)
        if most is not None and value > most:
            raise UserError(f"{field.name} must be at most {most}, got {value!r}")
        if field.name in above_zero and value <= 0:
            raise UserError(f"{field.name} must be above 0, got {value!r}")
        if field.name in below_one and value >= 1:
            raise UserError(f"{field.name} must be below 1, got {value!r}")
        if field.choices and value not in field.choices:
            raise UserError(
                f"{field.name} must be one of {', '.join(field.choices)}, got {value!r}"
            )


def _fits(value: Any, kind: type) -> bool:
    if kind is tuple:
        whole = value if isinstance(value, tuple) else (value,)
        return all(type(v) is int for v in whole)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _in_words(field: OptionField) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        tuple: "a whole number or several",
    }
    return f"a tuple of {words[field.type]}" if field.several else words[field.type]


@dataclass(frozen=True)
class OptionField:
    """One option as the command line needs it.

    Parameters
    ----------
    name, default, help
    type : type
        int, float, str, bool, or tuple for one or several whole numbers.
    choices : tuple of str
        The allowed values, when they are listed.
    optional : bool
        Whether None is allowed.
    several : bool
        Whether it is a tuple of any number of such values.
    part : str
        The part of a schema that it belongs to.
    """

    name: str
    default: Any
    help: str
    type: type
    choices: tuple[str, ...]
    optional: bool
    several: bool = False
    part: str = ""


def option_fields(options: type[BaseOptions], *, given: bool = False) -> list[OptionField]:
    """Return the options of a class, described by its annotations and its docstring's parameters.

    With those that are not the user's to choose, if `given`.
    """
    helps: dict[str, str] = {}
    for base in reversed(options.__mro__):
        helps |= _parameter_texts(base)
    hints = get_type_hints(options)
    found = []
    for field in dataclasses.fields(options):
        if field.name in options.given and not given:
            continue
        kinds = [hints[field.name]]
        if get_origin(kinds[0]) in (Union, types.UnionType):
            kinds = list(get_args(kinds[0]))
        optional = type(None) in kinds
        kinds = [kind for kind in kinds if kind is not type(None)]
        several = len(kinds) == 1 and get_origin(kinds[0]) is tuple
        if several:  # tuple[X, ...]
            kinds = [get_args(kinds[0])[0]]
        choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
        kind = tuple if len(kinds) > 1 else str if choices else kinds[0]
        found.append(
            OptionField(
                field.name, field.default, helps[field.name], kind, choices, optional, several
            )
        )
    return found


def _parameter_texts(cls: type) -> dict[str, str]:
    """Read {name: text} off the numpydoc section Parameters."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n|\Z)", doc, re.S | re.M)
    entries = re.findall(
        r"^(\w+(?:, \w+)*) : .*\n((?:    .*\n?)+)", section[1] if section else "", re.M
    )
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
