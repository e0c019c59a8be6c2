"""Write the table of docs/support.md: ``python docs/support.py`` tries a tiny network for each row.

A test compares the page with what the program does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from gp_prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError

PAGE = Path(__file__).resolve().with_name("support.md")
BEGIN, END = "<!-- the table is made by support.py -->\n", "<!-- the end of the table -->\n"
IMAGES, ROWS, TOKENS = (1, 3, 8, 8), (1, 8), (1, 5, 8)


class Case(NamedTuple):
    """A tiny network in which one layer, or what follows it, is looked at.

    Attributes:
        what: the layer or structure, as the table names it.
        build: makes the network; what is looked at is its layer ``layer``.
        shape: of its input; an empty one stands for whole numbers (1, 5).
        layer: the layer whose channels and weights are looked at.
    """

    what: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = IMAGES
    layer: str = "layer"


class Chain(nn.Module):
    """``layer``, then what is given, then a linear layer on the mean over the positions."""

    def __init__(self, layer: nn.Module, *then: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.layer, self.then = layer, nn.Sequential(*then)
        self.last = end(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.then(self.layer(x))
        return self.last(out.flatten(2).mean(2) if out.dim() > 2 else out)  # type: ignore[no-any-return]


class Wiring(nn.Module):
    """Two convolutions of the same input, joined by a function, then a linear layer."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.layer, self.other = conv(), conv()
        self.join, self.last = join, end(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self.layer(x), self.other(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Excitation(nn.Module):
    """Squeeze and excitation: each channel is multiplied by a number made of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(inner))


class Tokens(nn.Module):
    """Runs a module on tokens of width 8 and gives its first output."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(8, 8), layer, end(8)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.layer, self.first(x)))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One layer that runs two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8), end(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.layer(torch.relu(self.layer(x)))))  # type: ignore[no-any-return]


def end(width: int) -> nn.Module:
    """Return an end of a network that has channels to cut, whatever the rest has."""
    return nn.Sequential(nn.Linear(width, 6), nn.ReLU(), nn.Linear(6, 4))


def conv() -> nn.Conv2d:
    """Return a convolution from the 3 channels of an image to 8."""
    return nn.Conv2d(3, 8, 3, padding=1)


def after(*modules: nn.Module, width: int = 8) -> Callable[[], nn.Module]:
    """Return what makes a network in which modules follow a convolution of 8 channels."""
    return lambda: Chain(conv(), *modules, width=width)


def shuffle(x: Tensor) -> Tensor:
    """Mix the channels of two halves."""
    return functional.channel_shuffle(x, 2)


def gate(one: Tensor, other: Tensor) -> Tensor:
    """Return a gated product."""
    return one * torch.sigmoid(other)


def first(layer: nn.Module, x: Tensor) -> Any:
    """Return the first output."""
    return layer(x)[0]


def whole(layer: nn.Module, x: Tensor) -> Any:
    """Return the output."""
    return layer(x)


def pair(layer: nn.Module, x: Tensor) -> Any:
    """Return what the layer gives for two equal inputs."""
    return layer(x, x)


def linear(*modules: nn.Module) -> Callable[[], nn.Module]:
    """Return what makes a network in which modules follow a linear layer of 8 channels."""
    return lambda: Chain(nn.Linear(8, 8), *modules)


def tokens(layer: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> Callable[[], nn.Module]:
    """Return what makes a network on tokens."""
    return lambda: Tokens(layer, call)


def embedding() -> nn.Module:
    """Return a network on whole numbers."""
    return nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), end(8))


def attend(layer: nn.Module, x: Tensor) -> Any:
    """Return self-attention."""
    return layer(x, x, x)[0]


CASES = (
    Case("`Linear`", linear(), ROWS),
    Case("`Conv1d`", lambda: Chain(nn.Conv1d(3, 8, 3)), (1, 3, 8)),
    Case("`Conv2d`", after()),
    Case("`Conv3d`", lambda: Chain(nn.Conv3d(3, 8, 3)), (1, 3, 4, 4, 4)),
    Case("`ConvTranspose2d`", lambda: Chain(nn.ConvTranspose2d(3, 8, 3))),
    Case("convolution before a grouped one", after(nn.Conv2d(8, 8, 3, groups=2))),
    Case("convolution before a depthwise one", after(nn.Conv2d(8, 8, 3, groups=8))),
    Case("grouped convolution", after(nn.Conv2d(8, 8, 3, groups=2)), layer="then.0"),
    Case("depthwise convolution", after(nn.Conv2d(8, 8, 3, groups=8)), layer="then.0"),
    Case("the last layer", after(), layer="last.2"),
    Case("before `BatchNorm2d`", after(nn.BatchNorm2d(8))),
    Case("before `InstanceNorm2d`", after(nn.InstanceNorm2d(8, affine=True))),
    Case("before `GroupNorm`", after(nn.GroupNorm(2, 8))),
    Case("before `LayerNorm`", linear(nn.LayerNorm(8)), ROWS),
    Case("before `RMSNorm`", linear(nn.RMSNorm(8)), ROWS),
    Case("before `LocalResponseNorm`", after(nn.LocalResponseNorm(3))),
    Case(
        "before `ReLU`, `GELU`, `SiLU`, `Dropout`",
        after(nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Dropout()),
    ),
    Case("before `PReLU` with a slope for each channel", after(nn.PReLU(8))),
    Case("before `Softmax` over the channels", after(nn.Softmax(1))),
    Case("before `GLU`", after(nn.GLU(1), width=4)),
    Case("before pooling", after(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1))),
    Case("before `Upsample`", after(nn.Upsample(scale_factor=2))),
    Case(
        "before `Flatten` and `Linear`",
        after(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 8)),
    ),
    Case("before `PixelShuffle`", after(nn.PixelShuffle(2), width=2)),
    Case("residual sum", lambda: Wiring(torch.add)),
    Case("concatenation", lambda: Wiring(lambda a, b: torch.cat([a, b], 1), 16)),
    Case("gated product of two layers", lambda: Wiring(gate)),
    Case("squeeze and excitation", after(Excitation())),
    Case("channel shuffle", lambda: Wiring(lambda a, b: shuffle(a + b))),
    Case("layer that runs twice", Twice, ROWS),
    Case(
        "`weight_norm` (parametrisation)",
        lambda: Chain(parametrizations.weight_norm(nn.Linear(8, 8))),
        ROWS,
    ),
    Case(
        "`MultiheadAttention`",
        tokens(nn.MultiheadAttention(8, 2, batch_first=True), attend),
        TOKENS,
    ),
    Case(
        "MLP of `TransformerEncoderLayer`",
        tokens(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), whole),
        TOKENS,
        "layer.linear1",
    ),
    Case("`LSTM`", tokens(nn.LSTM(8, 8, batch_first=True), first), TOKENS),
    Case("layer before an `LSTM`", tokens(nn.LSTM(8, 8, batch_first=True), first), TOKENS, "first"),
    Case("`GRU`", tokens(nn.GRU(8, 8, batch_first=True), first), TOKENS),
    Case("`Embedding`", embedding, (), "0"),
    Case("linear layer after an `Embedding`", embedding, (), "1"),
    Case("`Bilinear`", tokens(nn.Bilinear(8, 8, 8), pair), ROWS),
    Case("lazy layers that did not run yet", lambda: Chain(nn.LazyLinear(8)), ROWS),
    Case("TorchScript", lambda: torch.jit.script(linear()()), ROWS),
    Case("`DataParallel`", lambda: nn.DataParallel(linear()()), ROWS, "module.layer"),
)


def describe(case: Case, metric: str) -> str:
    """Return what pruning half of a network does to the layer of a case."""
    torch.manual_seed(0)
    inputs = torch.randn(case.shape) if case.shape else torch.tensor([[1, 4, 2, 8, 5]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
            pruned: PrunedModel = prune(case.build().eval(), metric, inputs, pruning_ratio=0.5)
    except UserError as error:
        return f"refused: {error}"
    row = next((row for row in pruned.rows if row.layer == case.layer), None)
    if row is None:
        return "kept whole"
    if row.channels_kept < row.channels:
        return "heads are cut" if row.unit == "heads" else "cut"
    inner = [r for r in pruned.rows if r is row or r.layer.startswith(f"{case.layer}.")]
    if metric == "magnitude" and any(part.params_kept < part.params for part in inner):
        return "masked"
    # What torch says of a network that does not run differs between its versions.
    reason = row.fixed.split("channels: ")[0] + ("channels" if "channels: " in row.fixed else "")
    return f"kept whole: {reason}" if reason else "kept whole"


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| layer or structure | channels | single weights |", "|---|---|---|"]
    for case in CASES:
        channels, weights = describe(case, "l1"), describe(case, "magnitude")
        cells = [case.what, channels, "the same" if weights == channels else weights]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = PAGE.read_text("utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}{table()}{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
