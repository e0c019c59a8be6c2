"""Name the axes of values, whose set is the type of a value; say what functions do to types.

Every tensor of gp-prune keeps its axes in one canonical order, so a set of letters says all
there is to say about its layout: ``Axes("ki o")`` is the layout ``(o, i, k)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

AXIS_MEANING: dict[str, str] = {
    "o": "output channels of the layer",
    "p": "a second index over the output channels (pairs of channels)",
    "i": "input channels (in a grouped layer, those that the output channel reads)",
    "k": "kernel taps (a linear layer has one)",
    "j": "weights of the next layers that read the channel (outgoing taps)",
    "c": "classes, each compared with all others",
    "n": "calibration samples",
    "s": "spatial positions (a linear layer has one)",
}
"""Each axis letter, in canonical order, with its meaning."""

AXIS_WORDS: dict[str, tuple[str, str]] = {
    "o": ("channel", "channels"),
    "p": ("channel p", "all channels p"),
    "i": ("input channel", "input channels"),
    "k": ("tap", "taps"),
    "j": ("outgoing tap", "outgoing taps"),
    "c": ("class", "classes"),
    "n": ("sample", "samples"),
    "s": ("position", "positions"),
}
"""One entry along each axis, and several, as formulas in words name them."""

_ORDER = {letter: position for position, letter in enumerate(AXIS_MEANING)}


class Axes:
    """An immutable set of axis letters in canonical order; the type of a value.

    Iterating gives the letters in the order of the tensor's dimensions. Instances with the same
    letters are the same object, so ``is`` and ``==`` agree and types are cheap dictionary keys.

    Args:
        letters: axis letters in any order; commas and blanks are ignored (``"o,i,k"``).

    Raises:
        ValueError: a letter is not an axis, or is named twice.
    """

    __slots__ = ("letters",)
    letters: str
    _interned: ClassVar[dict[str, Axes]] = {}

    def __new__(cls, letters: str | Iterable[str] = "") -> Axes:
        """Return the one instance with these letters."""
        wanted = [letter for letter in letters if letter not in ", "]
        for letter in wanted:
            if letter not in _ORDER:
                known = ", ".join(AXIS_MEANING)
                raise ValueError(f"unknown axis {letter!r}; the axes are {known}")
        if len(set(wanted)) != len(wanted):
            raise ValueError(f"axis named twice in {''.join(wanted)!r}; name each axis once")
        key = "".join(sorted(wanted, key=_ORDER.__getitem__))
        if key not in cls._interned:
            axes = cls._interned[key] = super().__new__(cls)
            object.__setattr__(axes, "letters", key)
        return cls._interned[key]

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Axes are immutable")

    def __reduce__(self) -> tuple[type[Axes], tuple[str]]:
        return Axes, (self.letters,)

    def __iter__(self) -> Iterator[str]:
        return iter(self.letters)

    def __len__(self) -> int:
        return len(self.letters)

    def __contains__(self, letter: str) -> bool:
        return letter in self.letters

    def __lt__(self, other: Axes) -> bool:
        """Order by size, then by letters: a total order, so that no run depends on hashing."""
        return (len(self), self.letters) < (len(other), other.letters)

    def __or__(self, other: Axes) -> Axes:
        return Axes(set(self.letters) | set(other.letters))

    def __sub__(self, other: Axes) -> Axes:
        return Axes(set(self.letters) - set(other.letters))

    def issubset(self, other: Axes) -> bool:
        """Return whether every axis of this value is an axis of ``other``."""
        return set(self.letters) <= set(other.letters)

    @property
    def legal(self) -> bool:
        """Return whether a value may have this type (see :data:`LEGAL_AXES`)."""
        return self in _LEGAL

    def index(self, letter: str) -> int:
        """Return the position of the axis among the dimensions; ValueError if it is absent."""
        return self.letters.index(letter)

    def __repr__(self) -> str:
        return f"Axes({self.letters!r})"

    def __str__(self) -> str:
        return "{" + ",".join(self.letters) + "}"


SCALAR = Axes("")
CHANNEL = Axes("o")
WEIGHT = Axes("oik")

LEGAL_AXES: tuple[Axes, ...] = tuple(
    sorted(
        Axes(letters)
        for letters in (
            "", "o", "i", "c", "oi", "ik", "ok", "oik", "oj", "on", "os", "ons",
            "in", "ins", "oc", "ocs", "op",
        )
    )
)  # fmt: skip
"""The closed list of types that a value may have, ordered by size, then by letters."""

_LEGAL = frozenset(LEGAL_AXES)


def broadcast(*types: Axes) -> Axes | None:
    """Return the type of an elementwise result: the union of the axes, None if it is not legal."""
    union = Axes(set().union(*types))
    return union if union.legal else None


@dataclass(frozen=True)
class Elementwise:
    """A function of single entries; the result has the union of the arguments' axes."""

    arity: int
    bracketed = False

    def result(self, over: Axes, arguments: Sequence[Axes]) -> Axes | None:
        """Return the type of the result, or None where the union is not a legal type."""
        return broadcast(*arguments)


@dataclass(frozen=True)
class Reduction:
    """A function that removes the axes named in brackets: ``sum[i,k](x)``."""

    arity = 1
    bracketed = True

    def result(self, over: Axes, arguments: Sequence[Axes]) -> Axes | None:
        """Return the type of the result, or None where an axis is absent or the rest not legal."""
        (argument,) = arguments
        if not over or not over.issubset(argument):
            return None
        rest = argument - over
        return rest if rest.legal else None


@dataclass(frozen=True)
class Normaliser:
    """A function that relates each entry to the others along the axes named in brackets."""

    arity = 1
    bracketed = True

    def result(self, over: Axes, arguments: Sequence[Axes]) -> Axes | None:
        """Return the type of the argument, or None where a bracketed axis is absent."""
        (argument,) = arguments
        return argument if over and over.issubset(argument) else None


@dataclass(frozen=True)
class Signature:
    """A function of fixed types: ``Signature("oik", to="op")``."""

    arguments: tuple[Axes, ...]
    to: Axes
    bracketed = False

    def __init__(self, *arguments: str, to: str) -> None:
        object.__setattr__(self, "arguments", tuple(Axes(letters) for letters in arguments))
        object.__setattr__(self, "to", Axes(to))

    @property
    def arity(self) -> int:
        """Return the number of arguments."""
        return len(self.arguments)

    def result(self, over: Axes, arguments: Sequence[Axes]) -> Axes | None:
        """Return the declared type, or None where the arguments have other types."""
        return self.to if tuple(arguments) == self.arguments else None
