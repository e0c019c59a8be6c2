"""Errors that a person can correct, and the checks that raise them.

Every message is one sentence that names the thing, the value and the remedy.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_LONGEST = 1500
"""Characters of a message; names in files may be longer than a screen."""


class UserError(ValueError):
    """Bad input. The message is one sentence; the command line prints it and exits with 2.

    Args:
        message: the sentence; what is too long for a screen loses its middle.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(message)


def pluralize(number: int, noun: str) -> str:
    """Return a count with its noun, as messages need it: ``1 sample``, ``2 batches``."""
    plural = f"{noun}es" if noun.endswith(("tch", "rch", "nch", "s", "sh", "x")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


class Rule(NamedTuple):
    """What a setting must be.

    Attributes:
        accepts: whether a value is right; it takes values of any type.
        words: completes the sentence "it must be ...".
    """

    accepts: Callable[[Any], bool]
    words: str


MOST = 10**9
"""The largest number where nothing else is said; larger ones overflow times and sizes."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def brief(value: object) -> str:
    """Return a value as a message shows it, cut where it is long, deep or has many digits."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a value of too many digits"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unusable_folder(what: str, folder: object, error: OSError, remedy: str) -> UserError:
    """Return the error of a folder that cannot be written or read."""
    reason = error.strerror or type(error).__name__
    return UserError(f"{what} {str(folder)!r} cannot be used ({reason}); {remedy}")


def root_cause(error: BaseException) -> BaseException:
    """Return the error that the others were raised from."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def whole(least: int, most: int = MOST) -> Rule:
    """Return the rule for a whole number; ``True`` and ``False`` are none."""
    words = (
        f", at least {least} and at most {most:,}" if most == MOST else f" from {least} to {most}"
    )
    return Rule(
        lambda value: (
            isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        ),
        f"a whole number{words}",
    )


SEED = whole(0, 2**63 - 1)
"""The rule for every seed: torch takes none that is much larger."""


def number(
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = MOST,
    below: float = math.inf,
) -> Rule:
    """Return the rule for a number within bounds; ``least`` and ``most`` are included."""
    low = f" greater than {above:g}" if math.isfinite(above) else f", at least {least:g}"
    high = f" and less than {below:g}" if math.isfinite(below) else f" and at most {most:g}"
    return Rule(
        lambda value: (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and least <= value <= most
            and above < value < below  # which excludes NaN and the infinities
        ),
        f"a number{low}{high}",
    )


SHARE = number(above=0, most=1)
"""The rule for every share that is kept."""


def one_of(*choices: str) -> Rule:
    """Return the rule for one of some texts."""
    return Rule(
        lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"
    )


def check_value(name: str, value: object, rule: Rule) -> None:
    """Raise UserError unless a value is what its rule says.

    Args:
        name: what the value is, for the message.
        value: the value.
        rule: what it must be.
    """
    if not rule.accepts(value):
        raise UserError(f"{name} is {brief(value)}; it must be {rule.words}")


def check_fields(settings: object, rules: Mapping[str, Rule], of: str = "") -> None:
    """Check the fields of an object; of one whose default is a tuple, every entry.

    Args:
        settings: the object.
        rules: name of the field -> what it must be; fields without a rule are not checked.
        of: what the fields belong to, for the message, for instance ``" of fine-tuning"``.

    Raises:
        UserError: a field breaks its rule.
    """
    for name, rule in rules.items():
        field = getattr(settings, name)
        default = getattr(type(settings), name, None)
        # A list is what JSON has in the place of a tuple.
        several = isinstance(default, tuple) and isinstance(field, tuple | list)
        for value in field if several else (field,):
            if not rule.accepts(value):
                verb = "holds" if several else "is"
                raise UserError(f"{name}{of} {verb} {brief(value)}; it must be {rule.words}")


class DegenerateScores(UserError):
    """Report scores that rank nothing.

    Attributes:
        reason: ``"non-finite"``, ``"wrong-shape"``, ``"complex"`` or ``"constant"``.
        layer: the layer or channel group.
    """

    def __init__(self, reason: str, layer: str, detail: str) -> None:
        super().__init__(f"scores of layer {layer!r} are degenerate ({reason}): {detail}")
        self.reason = reason
        self.layer = layer
        self.detail = detail

    def __reduce__(self) -> tuple[type[DegenerateScores], tuple[str, str, str]]:
        """Pickle all three arguments; by default an exception is pickled by its message alone."""
        return DegenerateScores, (self.reason, self.layer, self.detail)
