"""N:M patterns: of every M consecutive weights along the input dimension N stay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from gp_prune.errors import UserError
from gp_prune.pruning.json_form import check_type, read_object
from gp_prune.pruning.modules import Conv
from gp_prune.pruning.plan import Budget


@dataclass(frozen=True)
class Pattern:
    """Of every ``m`` consecutive weights along the input dimension, ``n`` stay (written ``n:m``).

    Hardware that multiplies sparse matrices (2:4) wants the zeros spread evenly along the
    dimension over which a product sums up. For a linear layer a block is m consecutive input
    features of one output feature. A convolution sums over input channels and taps; it runs as a
    matrix product with the input channel as the fastest index, so a block is m consecutive input
    channels of one output channel and one tap. Grouped layers have their blocks within a group,
    and transposed convolutions along their input channels, too.

    Source: Mishra et al., Accelerating Sparse Deep Neural Networks, arXiv 2104.08378, 2021.

    Attributes:
        n: weights of a block that stay, at least 1.
        m: size of a block, greater than ``n``.

    Raises:
        UserError: n and m are not whole numbers with 1 <= n < m.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("n", "m"):
            check_type(getattr(self, name), int, f"{name} of a pattern n:m")
        if self.n > self.m > 0:
            raise UserError(
                f"pattern '{self.n}:{self.m}' would keep {self.n} of only {self.m} weights; it "
                f"must keep at least one and remove at least one, did you mean '{self.m}:{self.n}'?"
            )
        if not 1 <= self.n < self.m:
            raise UserError(
                f"pattern '{self.n}:{self.m}' keeps {self.n} of every {self.m} weights; it must "
                "keep at least one and remove at least one, like 2:4"
            )

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """A pattern from its text, such as ``2:4``.

        Raises:
            UserError: the text is not two numbers n:m with 1 <= n < m.
        """
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*:\s*([0-9]{1,6})\s*", text)
        if found is None:
            raise UserError(
                f"pattern {text!r} is not valid; write how many of how many consecutive weights "
                "stay, like 2:4"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @property
    def budget(self) -> Budget:
        """The share of weights that a layer keeps in which all blocks have the pattern."""
        return Budget("params", self.n / self.m)

    def obstacle(self, module: nn.Module) -> str:
        """Why a layer cannot have the pattern and stays whole; empty where it can have it.

        Args:
            module: a convolution, transposed convolution or linear layer.
        """
        groups, inputs = 1, getattr(module, "in_features", 0)
        if isinstance(module, Conv):
            groups, inputs = module.groups, module.in_channels
        width = inputs // groups
        what = "its input width" if groups == 1 else "the input width of its groups"
        if width < self.m:
            return f"{what} is {width}, less than a block of {self.m}"
        if width % self.m:
            return f"{what} is {width}, not a multiple of {self.m}"
        return ""

    def to_json(self) -> dict[str, int]:
        """The numbers as a JSON object."""
        return {"n": self.n, "m": self.m}

    @classmethod
    def from_json(cls, data: Any) -> Pattern:
        """Read what :meth:`to_json` wrote; UserError names what is wrong with it."""
        return cls(**read_object(data, "pattern", {"n": int, "m": int}))
