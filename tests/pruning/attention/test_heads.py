"""Attention layers made of linear layers: the same outputs, and heads as channels."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gp_prune._compat import TorchvisionWarning, import_torchvision
from gp_prune.pruning import Architecture, Budget, ChannelPlan, compact, mask, measure, predict
from gp_prune.pruning import trace as traced
from gp_prune.pruning.attention.heads import open_attention
from gp_prune.pruning.attention.modules import FusedAttention, OpenAttention, WindowAttention
from gp_prune.pruning.graph.architecture import HEADS
from gp_prune.pruning.plan.channels import Achieved

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TorchvisionWarning)
    import_torchvision()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


def attention(heads: int = 3, **options: Any) -> nn.MultiheadAttention:
    """An attention layer in float64 whose biases are not zero."""
    layer = nn.MultiheadAttention(12, heads, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.6, 0.6)
    return layer


def opened(layer: nn.Module) -> OpenAttention:
    found: Any = open_attention(layer)
    assert isinstance(found, OpenAttention)
    return found


def assert_same(found: Any, expected: Any) -> None:
    assert (found[1] is None) == (expected[1] is None)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            assert one.shape == other.shape
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, equal_nan=True)


OPTIONS = [
    dict(zip(("bias", "batch_first", "add_bias_kv", "add_zero_attn"), values, strict=True))
    for values in itertools.product((True, False), repeat=4)
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("widths", [{}, {"kdim": 7, "vdim": 5}], ids=["same", "kdim"])
def test_cross_attention_is_the_same(options: dict[str, bool], widths: dict[str, int]) -> None:
    layer = attention(**options, **widths)
    query = torch.randn(2, 4, 12).double()
    key = torch.randn(2, 6, widths.get("kdim", 12)).double()
    value = torch.randn(2, 6, widths.get("vdim", 12)).double()
    if not options["batch_first"]:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    for weights, averaged in ((True, True), (True, False), (False, True)):
        flags = {"need_weights": weights, "average_attn_weights": averaged}
        for masks in masks_for(2, 3, 4, 6, padding):
            expected = layer(query, key, value, **masks, **flags)
            assert_same(opened(layer)(query, key, value, **masks, **flags), expected)


def masks_for(
    samples: int, heads: int, rows: int, keys: int, padding: Tensor
) -> list[dict[str, Tensor]]:
    whole = torch.randn(rows, keys).double()
    each = torch.randn(samples * heads, rows, keys).double()
    return [
        {},
        {"attn_mask": whole},
        {"attn_mask": whole > 1},
        {"attn_mask": each},
        {"key_padding_mask": padding},
        {"key_padding_mask": padding, "attn_mask": each > 1},
        {"key_padding_mask": padding.double(), "attn_mask": whole},
    ]


@pytest.mark.parametrize("mode", ["train", "no-grad", "eval"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_with_causal_hint(mode: str, batch_first: bool) -> None:
    layer = attention(4, batch_first=batch_first).train(mode == "train")
    x = torch.randn(2, 5, 12).double()
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    if not batch_first:
        causal = nn.Transformer.generate_square_subsequent_mask(2, dtype=torch.float64)
    with torch.set_grad_enabled(mode != "no-grad"):
        for flags in ({"need_weights": False}, {"need_weights": True}):
            asked = {"attn_mask": causal, "is_causal": True, **flags}
            assert_same(opened(layer)(x, x, x, **asked), layer(x, x, x, **asked))
        assert_same(opened(layer)(x, x, x), layer(x, x, x))


def test_a_causal_hint_needs_its_mask() -> None:
    x = torch.randn(2, 5, 12).double()
    with pytest.raises(RuntimeError, match="needs attn_mask"):
        opened(attention())(x, x, x, is_causal=True)


def test_one_sample_without_its_axis() -> None:
    layer = attention()
    query, key = torch.randn(4, 12).double(), torch.randn(6, 12).double()
    padding = torch.arange(6) > 3
    for masks in ({}, {"key_padding_mask": padding}, {"attn_mask": torch.randn(3, 4, 6) > 1}):
        for flags in ({"need_weights": False}, {}, {"average_attn_weights": False}):
            found = opened(layer)(query, key, key, **masks, **flags)
            assert_same(found, layer(query, key, key, **masks, **flags))


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_drops_the_same_in_training(need_weights: bool) -> None:
    layer = attention(dropout=0.4, batch_first=True).train()
    x = torch.randn(2, 5, 12).double()
    results = []
    for module in (layer, opened(layer)):
        torch.manual_seed(1)
        results.append(module(x, x, x, need_weights=need_weights))
    assert_same(*results)
    assert not torch.equal(results[0][0], layer.eval()(x, x, x)[0])


def test_gradients_are_the_same() -> None:
    layer = attention(batch_first=True)
    other = opened(layer)
    x = torch.randn(2, 5, 12).double()
    for module in (layer, other):
        module(x, x, x, need_weights=False)[0].pow(2).sum().backward()
    parts = (other.q_proj, other.k_proj, other.v_proj)
    for name, packed in (("weight", layer.in_proj_weight), ("bias", layer.in_proj_bias)):
        assert packed.grad is not None
        joined = torch.cat([getattr(part, name).grad for part in parts])
        torch.testing.assert_close(joined, packed.grad, rtol=1e-12, atol=1e-12)


def test_the_original_and_its_flags_stay() -> None:
    model: Any = nn.Sequential(nn.Linear(12, 12), nn.TransformerEncoderLayer(12, 3, 8)).eval()
    model[1].self_attn.in_proj_weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found: Any = open_attention(model)
    inner = found[1].self_attn
    assert isinstance(inner, OpenAttention) and not inner.training
    assert isinstance(model[1].self_attn, nn.MultiheadAttention)
    assert not inner.q_proj.weight.requires_grad and inner.q_proj.bias.requires_grad
    inner.q_proj.weight.data.zero_()
    inner.out_proj.weight.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_to_open_gives_the_same_object() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    assert open_attention(model) is model
    once = open_attention(nn.TransformerEncoderLayer(12, 3, 8))
    assert open_attention(once) is once


class OwnAttention(nn.MultiheadAttention):
    def forward(self, *arguments: Any, **options: Any) -> Any:
        return super().forward(*arguments, **options)


def test_what_cannot_be_opened_safely_stays() -> None:
    own = OwnAttention(12, 3)
    hooked = nn.MultiheadAttention(12, 3)
    hooked.register_forward_hook(lambda *_: None)
    tied = nn.ModuleList([nn.MultiheadAttention(12, 3), nn.MultiheadAttention(12, 3)])
    tied[1].in_proj_weight = tied[0].in_proj_weight
    for model in (own, hooked, tied):
        assert open_attention(model) is model


def test_a_layer_used_twice_stays_one() -> None:
    layer = nn.MultiheadAttention(12, 3)
    found: Any = open_attention(nn.ModuleList([layer, layer]))
    assert found[0] is found[1] and isinstance(found[0], OpenAttention)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_torchs_encoder_and_decoder(norm_first: bool, batch_first: bool, grad: bool) -> None:
    options = {"norm_first": norm_first, "batch_first": batch_first, "dropout": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch says why it will not nest tensors
        model = nn.Transformer(16, 4, 2, 2, 24, **options).double().eval()  # type: ignore[arg-type]
    source, target = torch.randn(2, 6, 16).double(), torch.randn(2, 5, 16).double()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    masks = {
        "tgt_mask": causal, "src_key_padding_mask": padding, "memory_key_padding_mask": padding,
    }  # fmt: skip
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # masks of two types, nested prototypes
        expected = model(source, target, **masks)
        found: Any = open_attention(model)(source, target, **masks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Fused(nn.Module):
    """Attention as vision transformers outside torch write it."""

    def __init__(self, width: int = 12, heads: int = 3, twist: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.twist = heads, width // heads, twist
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = nn.LayerNorm(self.head_dim)
        self.proj = nn.Linear(width, width)
        self.attn_drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        n, positions, width = x.shape
        qkv = self.qkv(x).reshape(n, positions, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q_norm(q).flip(1) if self.twist else self.q_norm(q)
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        if attn_mask is not None:
            scores = scores + attn_mask
        x = self.attn_drop(scores.softmax(-1)) @ v
        return self.proj(x.transpose(1, 2).reshape(n, positions, width))  # type: ignore[no-any-return]


def test_fused_attention_is_recognised_by_trying_it() -> None:
    layer = Fused().double().eval()
    found: Any = open_attention(layer)
    assert isinstance(found, FusedAttention)
    x = torch.randn(2, 5, 12).double()
    masking = torch.randn(5, 5).double()
    torch.testing.assert_close(found(x), layer(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found(x, masking), layer(x, masking), rtol=1e-12, atol=1e-12)
    other = Fused(twist=True)
    assert open_attention(other) is other


class Pair(Fused):
    """Returns the weights, too, or None in their place."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Any:
        return super().forward(x, attn_mask), None


def test_attention_that_returns_no_tensor_stays() -> None:
    layer = Pair()
    assert open_attention(layer) is layer


@pytest.mark.parametrize("window", [(4, 4), (4, 3)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 1), (0, 1), (2, 0)])
@pytest.mark.parametrize("size", [(8, 9), (5, 7), (3, 3), (4, 9)])
def test_shifted_windows_are_the_same(
    window: tuple[int, int], shift: tuple[int, int], size: tuple[int, int]
) -> None:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    layer = ShiftedWindowAttention(12, list(window), list(shift), 3).double()
    nn.init.normal_(layer.relative_position_bias_table)
    found: Any = open_attention(layer)
    assert isinstance(found, WindowAttention)
    assert found.state_dict().keys() == layer.state_dict().keys()
    x = torch.randn(2, *size, 12).double()
    torch.testing.assert_close(found(x), layer(x), rtol=1e-12, atol=1e-12)


class Encoder(nn.Module):
    """Two attention layers and an MLP around a residual stream, on (n, positions, entries)."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.norms = nn.ModuleList([nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)])
        self.attentions = nn.ModuleList([layer(), layer()])
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, layer in zip(self.norms, self.attentions, strict=False):
            y = norm(x)
            x = x + self.attend(layer, y)
        x = x + self.mlp(self.norms[2](x))
        return self.head(x.mean(tuple(range(1, x.dim() - 1))))  # type: ignore[no-any-return]

    def attend(self, layer: nn.Module, y: Tensor) -> Tensor:
        if isinstance(layer, nn.MultiheadAttention | OpenAttention):
            return layer(y, y, y, need_weights=False)[0]  # type: ignore[no-any-return]
        return layer(y)  # type: ignore[no-any-return]


def windows() -> nn.Module:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    return ShiftedWindowAttention(12, [4, 4], [2, 2], 3)  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "torch": (lambda: nn.MultiheadAttention(12, 3, batch_first=True), (2, 5, 6)),
    "torch-extra-key": (
        lambda: nn.MultiheadAttention(12, 3, batch_first=True, add_bias_kv=True, bias=False),
        (2, 5, 6),
    ),
    "fused": (Fused, (2, 5, 6)),
    "windows": (windows, (2, 8, 9, 6)),
}


def network(kind: str) -> tuple[nn.Module, Tensor, Architecture]:
    layer, shape = NETWORKS[kind]
    model = open_attention(Encoder(layer)).double().eval()
    for parameter in model.parameters():
        parameter.data.uniform_(-0.5, 0.5)
    inputs = torch.randn(shape).double()
    return model, inputs, traced(model, inputs)


def plan_of(removed: dict[str, tuple[int, ...]]) -> ChannelPlan:
    return ChannelPlan(removed, Budget("channels", 0.5), Achieved(0.5, 0.5, 0.5))


def head_groups(architecture: Architecture) -> list[str]:
    sides = {group.name: {slot.side for slot in group.slots} for group in architecture.free}
    return [name for name, found in sides.items() if HEADS in found]


@pytest.mark.parametrize("kind", NETWORKS)
def test_heads_are_channels(kind: str) -> None:
    model, inputs, architecture = network(kind)
    names = head_groups(architecture)
    assert len(names) == 2
    assert [architecture.by_name[name].size for name in names] == [3, 3]
    assert "mlp.0" in {group.name for group in architecture.free}
    cost = measure(model, inputs)
    assert architecture.dense_costs == (cost.macs, cost.params)
    for first, second in (((0,), (1, 2)), ((0, 2), ()), ((1,), (0,))):
        gone = {name: heads for name, heads in zip(names, (first, second), strict=True) if heads}
        plan = plan_of({**gone, "mlp.0": (0, 3, 11)})
        smaller: Any = compact(model, plan, architecture)
        masked = copy.deepcopy(model)
        mask(masked, plan, architecture)
        torch.testing.assert_close(masked(inputs), smaller(inputs), rtol=1e-9, atol=1e-9)
        found = measure(smaller, inputs)
        assert predict(architecture, plan.kept(architecture)) == (found.macs, found.params)
        smaller(inputs).sum().backward()
        left = [layer.num_heads for layer in smaller.attentions]
        assert left == [3 - len(first), 3 - len(second)]


def test_the_cost_of_attention_in_closed_form() -> None:
    model, inputs, architecture = network("torch")
    positions, width, hidden = 5, 12, 20
    projections = 2 * 4 * positions * width * width
    between = 2 * 2 * positions * positions * width
    rest = positions * (6 * width + 2 * width * hidden) + width * 4
    assert measure(model, inputs).macs == projections + between + rest
    closed = Encoder(NETWORKS["torch"][0]).double().eval()
    assert measure(closed, inputs).macs == projections + between + rest
    names = head_groups(architecture)
    macs, _ = predict(architecture, dict.fromkeys(names, 1))
    assert macs == (projections + between) // 3 + rest


def test_masks_for_each_head_follow_the_heads_that_stay() -> None:
    layer = opened(attention(batch_first=True))
    x, each = torch.randn(2, 5, 12).double(), torch.randn(6, 5, 5).double()
    smaller = copy.deepcopy(layer)
    gone = [4, 5, 6, 7]  # the entries of head 1
    stay = [entry for entry in range(12) if entry not in gone]
    for name in ("q_proj", "k_proj", "v_proj"):
        part = getattr(smaller, name)
        part.weight = nn.Parameter(part.weight[stay])
        part.bias = nn.Parameter(part.bias[stay])
    smaller.out_proj.weight = nn.Parameter(smaller.out_proj.weight[:, stay])
    smaller.remove_heads([1])
    with torch.no_grad():
        layer.out_proj.weight[:, gone] = 0
    for flags in ({"need_weights": False}, {"average_attn_weights": False}):
        expected, weights = layer(x, x, x, attn_mask=each, **flags)
        found, others = smaller(x, x, x, attn_mask=each, **flags)
        torch.testing.assert_close(found, expected)
        if weights is not None:
            torch.testing.assert_close(others, weights[:, [0, 2]])


def test_an_interface_layer_keeps_its_heads() -> None:
    model, inputs, _ = network("torch")
    architecture = traced(model, inputs, interface=["attentions.0.k_proj"])
    kept = architecture.by_name["attentions.0.q_proj"]
    assert kept.fixed == "named interface"
    assert head_groups(architecture) == ["attentions.1.q_proj"]


class Weighing(nn.Module):
    """Puts out how its heads attend, so that their number shows outside."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, weights = self.attention(x, x, x)
        return out, weights


def test_heads_that_show_outside_stay() -> None:
    model = open_attention(Weighing()).eval()
    inputs = torch.randn(2, 5, 12)
    architecture = traced(model, inputs)
    assert not architecture.free
    assert "changes more" in architecture.by_name["attention.q_proj"].fixed


def test_the_architecture_survives_json() -> None:
    _, _, architecture = network("torch-extra-key")
    assert Architecture.from_json(architecture.to_json()) == architecture


class Closed(nn.Module):
    """Attention over windows of a map, written out, whose layers are used as functions."""

    def __init__(self, window: int = 2) -> None:
        super().__init__()
        self.num_heads, self.window = 3, window
        self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        n, rows, columns, width = x.shape
        w = self.window
        x = x.view(n, rows // w, w, columns // w, w, width).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, w * w, width)
        qkv = nn.functional.linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = qkv.reshape(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(-1, w * w, width)
        x = nn.functional.linear(x, self.proj.weight, self.proj.bias)
        x = x.view(n, rows // w, columns // w, w, w, width).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(n, rows, columns, width)


def test_attention_that_cannot_be_opened_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit that ends Torch-Pruning's endless index maps is set low to be quick.
    monkeypatch.setattr("gp_prune.pruning.graph.following.INDEX_MAP_LIMIT", 20_000)
    model = Encoder(Closed).eval()
    assert open_attention(model) is model
    inputs = torch.randn(1, 8, 8, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Torch-Pruning says how deep it went
        architecture = traced(model, inputs)
    assert [group.name for group in architecture.free] == ["mlp.0"]
    assert architecture.by_name["embed"].fixed


def test_index_maps_without_end_are_stopped() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 2))
    inputs = torch.randn(1, 1, 8, 8)
    assert len(traced(model, inputs).free) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gp_prune.pruning.graph.following.INDEX_MAP_LIMIT", 100)
        assert "multiply without end" in traced(model, inputs).by_name["0"].fixed


def test_counting_leaves_torchs_fast_path_as_it_was() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no")

    assert torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(RuntimeError, match="no"):
        measure(Fails(), torch.zeros(1, 2))
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        measure(nn.Linear(2, 2), torch.zeros(1, 2))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


class Remembering(nn.Module):
    """Hands a view of a parameter to a module, and keeps what it has computed."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 6))
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        token = self.first(self.token.expand(x.shape[0], -1, -1))
        self.kept["token"] = token.detach() if not torch.is_grad_enabled() else token
        return self.second(torch.relu(self.first(x) + token))  # type: ignore[no-any-return]


def test_parameters_as_inputs_and_kept_results() -> None:
    model = Remembering().eval()
    inputs = torch.randn(2, 5, 6)
    architecture = traced(model, inputs)
    assert [group.name for group in architecture.free] == ["first"]
    assert measure(model, inputs).macs == 5 * (6 * 8 + 8 * 4) + 6 * 8
    assert all(parameter.requires_grad for parameter in model.parameters())
