"""Forms: what a file may hold. Plain data and arrays are compared with them at the door.

    RESULTS = Mapping(Record({}, {"test_accuracy": Number(0, 1), "parameters": Whole()}))
    check(data, RESULTS, "results.json")
    # UserError: results.json: found.test_accuracy must be a number from 0 to 1, got [1]

Whoever reads a file after that need not ask again. Everything in a file is compared, also what a form does not name (as
`ANYTHING`): nothing passes that is nested too deeply to be written again, or of a type that JSON does not have.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .errors import FileError, printable, short

DEEPEST = 32
"""Levels that data may be nested; what Python writes as JSON again has to be well below its limit of recursion."""

LARGE = 1e30
"""Numbers up to here can be squared and summed as floating-point numbers of double precision, and drawn."""

LARGEST = 2**53
"""Whole numbers up to here are the same in every language's JSON, and fit NumPy's integers."""


At = tuple[str | int, ...]


class Mismatch(Exception):
    """Data are not of their form."""


def check(data: Any, form: Form, where: str) -> Any:
    """Return data when they are as a form says.

    Parameters
    ----------
    data
        The value that was read.
    form : Form
    where : str
        The file, and the line where it has several, for the message.

    Raises
    ------
    FileError
        When they are not; it says where and what was expected.
    """
    try:
        form.check(data, ())
    except Mismatch as error:
        raise FileError(f"{where}: {error}") from None
    return data


class Form(ABC):
    """The form of a value, which data are compared with."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The expectation in words, such as "a number"."""

    @abstractmethod
    def check(self, value: Any, at: At = ()) -> None:
        """Raise a `Mismatch` when a value is not of the form.

        Parameters
        ----------
        value
        at : tuple of str and int
            Where it stands: names and numbers of what it is in; empty: it is the whole.
        """

    def refuse(self, value: Any, at: At) -> NoReturn:
        """Raise the `Mismatch` of a value."""
        raise Mismatch(f"{_place(at)} must be {self.words}, got {short(value)}")


def _place(at: At) -> str:
    """Return where something stands, such as ``found.test_loss`` or ``launches[2].command``."""
    text = ""
    for name in at:
        if isinstance(name, int):
            text += f"[{name}]"
        else:
            text += f"{'.' if text else ''}{printable(name, 40)}"
    return text or "its content"


@dataclass(frozen=True)
class Text(Form):
    """A text of at most so many letters.

    Parameters
    ----------
    longest, least : int
        Letters.
    choices : tuple of str
        The only texts allowed; empty: any.
    """

    longest: int = 100_000
    least: int = 0
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        if self.choices:
            return " or ".join(map(repr, self.choices))
        return "a text" if not self.least else "a text that is not empty"

    def check(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            self.refuse(value, at)
        if not self.least <= len(value) <= self.longest or "\0" in value:
            self.refuse(value, at)


@dataclass(frozen=True)
class Number(Form):
    """A number.

    Parameters
    ----------
    least, most : float
    loose : bool
        Whether inf and nan are ones, too.
    """

    least: float = -LARGE
    most: float = LARGE
    loose: bool = False

    @property
    def words(self) -> str:
        if self.most < LARGE:
            return f"a number from {self.least:g} to {self.most:g}"
        return "a number" if self.least == -LARGE else f"a number of at least {self.least:g}"

    def check(self, value: Any, at: At = ()) -> None:
        fits = abs(value) <= LARGEST if type(value) is int else type(value) is float
        loose = fits and self.loose and not math.isfinite(value)
        if not fits or not (loose or self.least <= value <= self.most):
            self.refuse(value, at)


@dataclass(frozen=True)
class Whole(Form):
    """A whole number.

    Parameters
    ----------
    least, most : int
    """

    least: int = 0
    most: int = LARGEST

    @property
    def words(self) -> str:
        words = "a whole number"
        if self.most < LARGEST:
            return f"{words} from {self.least} to {self.most}"
        return words if self.least == -LARGEST else f"{words} of at least {self.least}"

    def check(self, value: Any, at: At = ()) -> None:
        if type(value) is not int or not self.least <= value <= self.most:
            self.refuse(value, at)


@dataclass(frozen=True)
class Flag(Form):
    """True or false."""

    words = "true or false"

    def check(self, value: Any, at: At = ()) -> None:
        if type(value) is not bool:
            self.refuse(value, at)


@dataclass(frozen=True)
class Optional(Form):
    """None, or something else.

    Parameters
    ----------
    form : Form
        Form of a value that is not None.
    """

    form: Form

    @property
    def words(self) -> str:
        return f"{self.form.words}, or null"

    def check(self, value: Any, at: At = ()) -> None:
        if value is not None:
            self.form.check(value, at)


@dataclass(frozen=True)
class Either(Form):
    """One of several things that are told apart at a glance, such as a number and a text.

    Parameters
    ----------
    forms : tuple of Form
    """

    forms: tuple[Form, ...]

    @property
    def words(self) -> str:
        return " or ".join(form.words for form in self.forms)

    def check(self, value: Any, at: At = ()) -> None:
        for form in self.forms:
            try:
                return form.check(value, at)
            except Mismatch:
                continue
        self.refuse(value, at)


@dataclass(frozen=True)
class Both(Form):
    """Several forms that a value must have at once.

    Parameters
    ----------
    forms : tuple of Form
    """

    forms: tuple[Form, ...]

    @property
    def words(self) -> str:
        return self.forms[-1].words

    def check(self, value: Any, at: At = ()) -> None:
        for form in self.forms:
            form.check(value, at)


@dataclass(frozen=True)
class Chosen(Form):
    """An object whose form depends on what is in it.

    Parameters
    ----------
    choose : callable
        Returns the form, given the object.
    """

    choose: Callable[[dict[str, Any]], Form]
    words = "an object"

    def check(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, dict):
            self.refuse(value, at)
        self.choose(value).check(value, at)


@dataclass(frozen=True)
class List(Form):
    """A list of things alike.

    Parameters
    ----------
    each : Form
    least, most : int
        Its length.
    """

    each: Form
    least: int = 0
    most: int = 10_000_000

    @property
    def words(self) -> str:
        if self.least == self.most:
            return f"a list of {self.least} values"
        return "a list" if not self.least else f"a list of {self.least} values at least"

    def check(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, (list, tuple)) or not self.least <= len(value) <= self.most:
            self.refuse(value, at)
        for i, item in enumerate(value):
            self.each.check(item, (*at, i))


@dataclass(frozen=True)
class Mapping(Form):
    """An object whose names are not known beforehand.

    Parameters
    ----------
    each : Form
        Form of its values.
    """

    each: Form
    words = "an object"

    def check(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, dict):
            self.refuse(value, at)
        for name, item in value.items():
            if not isinstance(name, str):
                raise Mismatch(f"{_place(at)} has a name that is no text: {short(name)}")
            self.each.check(item, (*at, name))


@dataclass(frozen=True)
class Record(Form):
    """An object with names that have a meaning.

    Parameters
    ----------
    needed : mapping of str to Form
        Forms of the names that must be there.
    known : mapping of str to Form
        Forms of the names that may be there.
    endings : mapping of str to Form
        Forms of other names with these endings.
    others : Form or None
        Form of all other names; None: there must be none.
    """

    needed: AnyMapping[str, Form] = field(default_factory=dict)
    known: AnyMapping[str, Form] = field(default_factory=dict)
    endings: AnyMapping[str, Form] = field(default_factory=dict)
    others: Form | None = None
    words = "an object"

    def check(self, value: Any, at: At = ()) -> None:
        if not isinstance(value, dict):
            self.refuse(value, at)
        for name in self.needed:
            if name not in value:
                raise Mismatch(f"{_place((*at, name))} is missing")
        for name, item in value.items():
            if not isinstance(name, str):
                raise Mismatch(f"{_place(at)} has a name that is no text: {short(name)}")
            form = self.needed.get(name) or self.known.get(name) or self._of_ending(name)
            if form is None:
                raise Mismatch(f"{_place((*at, name))} is not known")
            form.check(item, (*at, name))

    def _of_ending(self, name: str) -> Form | None:
        for ending, form in self.endings.items():
            if name.endswith(ending):
                return form
        return self.others


@dataclass(frozen=True)
class Anything(Form):
    """Whatever JSON can hold, but not nested too deeply, and no number that is too large to compute with."""

    words = (
        f"null, true, false, a number, a text, a list or an object, nested less than {DEEPEST} deep"
    )

    def check(self, value: Any, at: At = ()) -> None:
        if len(at) > DEEPEST:
            raise Mismatch(f"{_place(at[:2])} is nested more than {DEEPEST} deep")
        if value is None or type(value) is bool:
            return
        if isinstance(value, str):
            _TEXT.check(value, at)
        elif isinstance(value, (int, float)):
            _NUMBER.check(value, at)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self.check(item, (*at, i))
        elif isinstance(value, dict):
            Mapping(self).check(value, at)
        else:
            self.refuse(value, at)


_TEXT, _NUMBER = Text(longest=10_000_000), Number(loose=True)
ANYTHING = Anything()


@dataclass(frozen=True)
class Tensors(Form):
    """Tensors and plain data, which `isnas.runtime.files.read_tensors` has looked through."""

    words = "tensors and plain data"

    def check(self, value: Any, at: At = ()) -> None:
        pass


PLAIN = Optional(Either((Flag(), Number(loose=True), Text())))
"""One value: null, true or false, a number, a text."""

OBJECT = Mapping(ANYTHING)
"""An object of whatever."""


@dataclass(frozen=True)
class Array:
    """An array.

    Parameters
    ----------
    kind : {"f", "i", "b"}
        Floating-point numbers, whole numbers, or truth values.
    shape : tuple of int or str
        Its shape; a letter stands for the same length wherever it occurs.
    """

    kind: str
    shape: tuple[int | str, ...]


def check_arrays(arrays: AnyMapping[str, Any], forms: AnyMapping[str, Array], where: str) -> None:
    """Check that a file holds just the arrays it should.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    forms : mapping of str to Array
    where : str
        The file, for the message.

    Raises
    ------
    FileError
        When an array is missing or too many, or is of another type or shape.
    """
    for name in arrays:
        if name not in forms:
            raise FileError(f"{where}: the array {short(name, 40)} is not known")
    lengths: dict[str, int] = {}
    for name, form in forms.items():
        if name not in arrays:
            raise FileError(f"{where}: the array {short(name, 40)} is missing")
        array = arrays[name]
        wanted = tuple(lengths.get(n, n) if isinstance(n, str) else n for n in form.shape)
        alike = len(wanted) == len(array.shape) and all(
            isinstance(want, str) or want == got
            for want, got in zip(wanted, array.shape, strict=True)
        )
        if array.dtype.kind != form.kind or not alike:
            kinds = {"f": "floating-point", "i": "whole", "b": "truth"}
            shape = f"({', '.join(map(str, wanted))}{',' if len(wanted) == 1 else ''})"
            raise FileError(
                f"{where}: {short(name, 40)} must hold {kinds[form.kind]} values of shape {shape}, "
                f"got {array.dtype} of shape {array.shape}"
            )
        for letter, length in zip(form.shape, array.shape, strict=True):
            if isinstance(letter, str):
                lengths[letter] = length
