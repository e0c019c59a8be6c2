"""Networks with parts that no graph follows: what can be cut is, the rest says why it stays."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune.apply import export
from gp_prune.apply.export import export_torch
from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.errors import UserError
from gp_prune.pruning import mask, measure, trace
from gp_prune.pruning.graph.inner_maps import find_differing_layer, recorded_maps
from gp_prune.pruning.modules import tell_nothing

SERIES = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A network whose forward pass is a function of its parts and its input."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.written(self, x)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def recurrent(layer: nn.Module) -> nn.Module:
    return Written(
        lambda s, x: s.after(s.middle(s.before(x))[0]),
        before=perceptron(8, 24, 16), middle=layer, after=perceptron(12, 24, 4),
    )  # fmt: skip


def cells(cell: nn.Module) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        lstm = isinstance(s.middle, nn.LSTMCell)
        state: Any = (x.new_zeros(2, 12),) * 2 if lstm else x.new_zeros(2, 12)
        for step in s.before(x).unbind(1):
            state = s.middle(step, state)
        return s.after(state[0] if lstm else state)  # type: ignore[no-any-return]

    parts = {"before": perceptron(8, 24, 16), "middle": cell, "after": perceptron(12, 24, 4)}
    return Written(forward, **parts)


def convolutions(last: int = 12) -> dict[str, nn.Module]:
    return {
        "a": nn.Conv2d(3, 16, 3), "b": nn.Conv2d(16, 12, 3), "c": nn.Conv2d(last, 5, 1),
    }  # fmt: skip


def in_mode(mode: Any) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        with mode():
            h = s.b(s.a(x).relu()).relu()
        return s.c(h.clone())  # type: ignore[no-any-return]

    return Written(forward, **convolutions())


def split_sum(s: Any, x: Tensor) -> Tensor:
    one, other = s.b(s.a(x).relu()).split((6, 6), 1)
    return s.c((one + other).relu())  # type: ignore[no-any-return]


def rotate(s: Any, x: Tensor) -> Tensor:
    h = s.a(x).tanh()
    h = h + torch.cat((h[..., 8:], h[..., :8]), -1)
    return s.c(s.b(h).relu())  # type: ignore[no-any-return]


class RotaryBlock(nn.Module):
    """Attention with rotated queries and keys, and a gated perceptron, as in Llama."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, 40, bias=False), nn.Linear(width, 40, bias=False)
        self.down = nn.Linear(40, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2])[:, None] / 10.0 ** torch.arange(x.shape[3] // 2)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        n, t, width = x.shape
        q, k, v = (
            f(h).view(n, t, self.heads, width // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        scores = self.rotated(q) @ self.rotated(k).transpose(2, 3) / (width // self.heads) ** 0.5
        x = x + self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width))
        h = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))  # type: ignore[no-any-return]


def llama() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), RotaryBlock(32, 4), nn.RMSNorm(32), nn.Linear(32, 7))


class Conv(nn.Sequential):
    def __init__(self, i: int, o: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o), nn.SiLU()
        )


class C2f(nn.Module):
    """The block of YOLOv8: halves of a map, a chain of bottlenecks, all concatenated."""

    def __init__(self, i: int, o: int, depth: int = 2) -> None:
        super().__init__()
        self.first, self.last = Conv(i, o, 1), Conv((2 + depth) * (o // 2), o, 1)
        self.chain = nn.ModuleList(Conv(o // 2, o // 2) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.first(x).chunk(2, 1))
        for block in self.chain:
            maps.append(block(maps[-1]))
        return self.last(torch.cat(maps, 1))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Three levels with a path up, boxes and classes for each, as in YOLO."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 16, 3, 2), C2f(16, 16))
        self.down = nn.ModuleList([nn.Sequential(Conv(16, 24, 3, 2), C2f(24, 24))])
        self.deep = nn.Sequential(Conv(24, 32, 3, 2), C2f(32, 32))
        self.up = nn.Upsample(scale_factor=2)
        self.merge = C2f(32 + 24, 24)
        self.heads = nn.ModuleList(
            nn.Sequential(Conv(width, 20), nn.Conv2d(20, 4 + 5, 1)) for width in (24, 32)
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        middle = self.down[0](self.stem(x))
        deep = self.deep(middle)
        middle = self.merge(torch.cat((self.up(deep), middle), 1))
        raw = [head(h) for head, h in zip(self.heads, (middle, deep), strict=True)]
        rows = torch.cat([one.flatten(2) for one in raw], 2).transpose(1, 2)
        boxes, scores = torch.split(rows, [4, 5], 2)
        best, label = scores.sigmoid().max(2)
        keep = best > 0.999999
        return {"boxes": boxes[keep], "labels": label[keep]}


class UNet(nn.Module):
    def __init__(self, conv: Any = nn.Conv2d, up: Any = nn.ConvTranspose2d) -> None:
        super().__init__()
        self.one, self.two, self.three = (
            conv(3, 12, 3, 1, 1),
            conv(12, 18, 3, 2, 1),
            conv(18, 24, 3, 2, 1),
        )
        self.up2, self.up1 = up(24, 18, 2, 2), up(18, 12, 2, 2)
        self.join2, self.join1 = conv(36, 18, 3, 1, 1), conv(24, 12, 3, 1, 1)
        self.last = conv(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x).relu()
        two = self.two(one).relu()
        h = self.up2(self.three(two).relu()).relu()
        h = self.join2(torch.cat((h, two), 1)).relu()
        h = self.join1(torch.cat((self.up1(h).relu(), one), 1)).relu()
        return self.last(h)  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "gru": (lambda: recurrent(nn.GRU(16, 12, batch_first=True)), SERIES),
    "two-way lstm": (
        lambda: recurrent(nn.LSTM(16, 6, 2, batch_first=True, bidirectional=True)), SERIES,
    ),
    "gru cell": (lambda: cells(nn.GRUCell(16, 12)), SERIES),
    "lstm cell": (lambda: cells(nn.LSTMCell(16, 12)), SERIES),
    "no_grad": (lambda: in_mode(torch.no_grad), IMAGES),
    "inference_mode": (lambda: in_mode(torch.inference_mode), IMAGES),
    "argmax": (
        lambda: Written(
            lambda s, x: s.c(s.b(s.a(x).relu()).relu()).argmax(1), **convolutions()
        ),
        IMAGES,
    ),
    "split": (lambda: Written(split_sum, **convolutions(6)), IMAGES),
    "rotated": (
        lambda: Written(rotate, a=nn.Linear(8, 16), b=nn.Linear(16, 12), c=nn.Linear(12, 4)),
        SERIES,
    ),
    "rotary transformer": (llama, SERIES),
    "detector": (Detector, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))),
    "u-net": (UNet, IMAGES),
    "u-net in 3 dimensions": (
        lambda: UNet(nn.Conv3d, nn.ConvTranspose3d),
        IMAGES[..., :8, :8, None].repeat(1, 1, 1, 1, 8),
    ),
    "convolutions of series": (
        lambda: nn.Sequential(
            nn.Conv1d(10, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 12, 3, groups=2),
            nn.ReLU(), nn.Flatten(), nn.Linear(48, 5),
        ),
        SERIES,
    ),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        make, inputs = NETWORKS[name]
        return make().eval(), inputs


def assert_equals_masked(model: nn.Module, pruned: PrunedModel, inputs: Tensor) -> None:
    """Masked and compact networks put out the same from every layer."""
    masked = copy.deepcopy(model)
    mask(masked, pruned.plan, pruned.architecture)
    with torch.no_grad():
        with recorded_maps(masked) as whole:
            masked(inputs)
        with recorded_maps(pruned.model) as part:
            pruned.model(inputs)
    entries = pruned.architecture.entries(pruned.plan.removed)  # type: ignore[union-attr]
    gone = {name: cut for (name, side), cut in entries.items() if side == "out"}
    assert find_differing_layer(whole, part, gone) == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_are_cut_where_they_can_be_followed(name: str) -> None:
    model, inputs = build(name)
    started = time.process_time()
    pruned = prune(model, "l1", inputs, keep_channels=0.5)
    assert time.process_time() - started < 20
    assert pruned.after[:2] == measure(pruned.model, inputs)[:2]
    assert pruned.after.macs < 0.9 * pruned.before.macs
    assert_equals_masked(model, pruned, inputs)
    free = {name for group in pruned.architecture.free for name in group.producers}
    assert all(row.fixed or row.layer in free for row in pruned.rows[:-1])


@pytest.mark.parametrize("name", NETWORKS)
def test_single_weights_go_without_a_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build(name)
    monkeypatch.setattr("gp_prune.apply.pipeline.trace", lambda *_, **__: pytest.fail("traced"))
    pruned = prune(model, "magnitude", inputs, keep_params=0.5)
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    ranked = sum(m.weight.numel() for m in model.modules() if isinstance(m, layers))
    assert pruned.achieved.weights == pytest.approx(0.5, abs=1 / ranked)
    assert pruned.before.params - pruned.after.params == ranked - round(ranked / 2)
    assert prune(model, "magnitude", inputs, pattern="1:2").before == pruned.before


def reasons(pruned: PrunedModel) -> dict[str, str]:
    return {row.layer: row.fixed for row in pruned.rows if row.fixed}


def test_every_module_with_weights_has_a_row_or_a_reason() -> None:
    model, inputs = build("gru")
    found = reasons(prune(model, "l1", inputs, keep_channels=0.5))
    assert found["middle"] == "a layer of type GRU has no channels or weights that can be cut"
    assert found["before.2"] == "a recurrent layer works on its channels"
    row = next(r for r in prune(model, "l1", inputs, keep_channels=0.5).rows if r.layer == "middle")
    weights = 3 * 12 * (16 + 12)
    assert row.macs == row.macs_kept == 10 * weights
    assert row.params == weights + 2 * 3 * 12


def test_a_backbone_that_keeps_no_gradients_says_so() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = s.b(s.a(x).relu())
        h = torch.from_numpy(h.numpy()).clone()  # which no gradient survives
        return s.c(h.relu())  # type: ignore[no-any-return]

    model = Written(forward, spare=nn.Linear(2, 2), table=nn.Embedding(4, 3), **convolutions())
    found = reasons(prune(model, "magnitude", IMAGES, keep_params=0.5))
    assert found["spare"] == "it does not run in evaluation mode on these inputs"
    assert "of type Embedding" in found["table"]
    with pytest.raises(UserError, match="no channels that may be cut"):
        prune(model, "l1", IMAGES, keep_channels=0.5)
    whole = {module.name: module.reason for module in trace(model, IMAGES).whole}
    assert "without gradients" in whole["a"] and "without gradients" in whole["b"]


def test_a_trial_with_nothing_to_compare_looks_inside() -> None:
    """The outputs are empty, so only inner maps tell that a group mixes its channels."""

    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.b(s.a(x).relu())
        h = s.c(h - h.mean(1, keepdim=True)).flatten(1)
        return h[h.sigmoid() > 0.9999999]  # type: ignore[no-any-return]

    model = Written(forward, **convolutions())
    found = trace(model, IMAGES)
    assert [group.name for group in found.free] == ["a"]
    assert "more than setting them to zero" in found.by_name["b"].fixed


@pytest.mark.parametrize(
    ("outputs", "nothing"),
    [
        ([torch.zeros(3)], True), ([torch.full((2, 2), 7.0)], True), ([torch.arange(4)], True),
        ([torch.zeros(0, 4)], True), ([], True), ([torch.tensor([float("nan"), 1.0])], True),
        ([torch.arange(4), torch.tensor([1.0, 2.0])], False),
    ],
)  # fmt: skip
def test_outputs_that_are_equal_whatever_is_computed(outputs: list[Tensor], nothing: bool) -> None:
    assert tell_nothing(outputs) is nothing


def test_a_file_is_compared_with_other_weights_where_outputs_are_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5))
    for parameter in model[-1].parameters():
        nn.init.zeros_(parameter)
    export_torch(model, tmp_path / "right.ts", IMAGES)
    write = export._scripted

    def wrong(model: Any, inputs: Any) -> tuple[bytes, nn.Module]:
        broken = copy.deepcopy(model)
        broken[0].weight.data.mul_(2)
        return write(broken, inputs)

    monkeypatch.setattr(export, "_scripted", wrong)
    with pytest.raises(UserError, match="is not written"):
        export_torch(model, tmp_path / "wrong.ts", IMAGES)
    assert not (tmp_path / "wrong.ts").exists()


def test_static_widths_of_twice_the_channels_shrink() -> None:
    """Halves as in CSPNet, whose sizes are made from an attribute that counts both."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 16
            self.first, self.inner = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Conv2d(16, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            one, other = torch.split(self.first(x).relu(), self.width // 2, 1)
            return self.last(torch.cat((one, self.inner(other).relu()), 1))  # type: ignore[no-any-return]

    model = Halves().eval()
    pruned = prune(model, "l1", IMAGES, keep_channels=0.5)
    assert {group.name for group in pruned.architecture.free} == {"first", "inner"}
    cut: Any = pruned.model
    assert cut.width == cut.first.out_channels < 16
    assert_equals_masked(model, pruned, IMAGES)


@pytest.mark.parametrize("output", [lambda h: h * 0, lambda h: h.argmax(1), lambda h: h[h.isinf()]])
def test_outputs_that_tell_nothing(output: Callable[[Tensor], Tensor]) -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        return output(s.c(s.b(s.a(x).relu()).softmax(1)))

    found = trace(Written(forward, **convolutions()), IMAGES)
    assert [group.name for group in found.free] == ["a"]
