"""Networks whose code needs certain widths, packs sequences, or holds masks and odd numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune
from torch.nn.utils import rnn

from gp_prune import prune
from gp_prune.apply.export import export_torch
from gp_prune.apply.models import load_model
from gp_prune.apply.network import ValueReads
from gp_prune.apply.options import PruneOptions
from gp_prune.apply.pipeline import Pruner
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.apply.scoring import as_metric
from gp_prune.errors import UserError
from gp_prune.pruning import trace
from gp_prune.pruning.graph.cut_check import FAILS
from gp_prune.statistics.running import copy_model
from gp_prune.statistics.time_limit import TimeLimitError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BY_WIDTH = {16: 1.0, 8: 2.0}


class Between(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, middle: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.middle = middle

    def forward(self, x: Tensor) -> Any:
        return self.head(self.second(self.middle(self.first(x))).mean((2, 3)))


def shuffled(h: Tensor) -> Tensor:
    return functional.pixel_unshuffle(functional.pixel_shuffle(h, 2), 2)


def in_quarters(h: Tensor) -> Tensor:
    return h.view(h.shape[0], 4, -1, 8, 8).mul(2).flatten(1, 2)


def divided(h: Tensor) -> Tensor:
    return h if h.shape[1] % 2 == 0 else h * (1 / 0)


def looked_up(h: Tensor) -> Tensor:
    return h * BY_WIDTH[h.shape[1]]


def misnamed(h: Tensor) -> Any:
    return h if h.shape[1] == 16 else h.nope  # type: ignore[attr-defined]


@pytest.mark.parametrize("middle", [shuffled, in_quarters, divided, looked_up, misnamed])
@pytest.mark.parametrize("metric", ["l1", "taylor_2017"])
def test_what_needs_its_width_stays_whole(middle: Any, metric: str) -> None:
    data = [(X, torch.tensor([0, 1]))] if metric == "taylor_2017" else ()
    loss = functional.cross_entropy if data else None
    pruned = prune(Between(middle), metric, X, data=data, loss=loss, keep_macs=0.5)
    fixed = {group.name: group.fixed for group in pruned.architecture.groups}
    assert fixed["first"].startswith(FAILS)
    assert not fixed["second"]


def test_a_cut_that_does_not_run_is_one_sentence() -> None:
    model = Between(divided)
    architecture = trace(model, X, try_out=False)
    options = PruneOptions(metric=as_metric("l1"), keep_channels=0.5)
    pruner = Pruner(model, options, X)
    cut = nn.Sequential(nn.Conv2d(4, 2, 3))
    with pytest.raises(UserError, match=r"does not run \(RuntimeError: .*--round-to .*--ignore"):
        pruner.check(cut, None, architecture, pruner.count(), try_out=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 4}])
def test_widths_that_only_the_cut_itself_meets(options: Any) -> None:
    def narrow(h: Tensor) -> Tensor:
        return h if h.shape[1] > 4 else h * (1 / 0)

    data: Any = [(X, torch.tensor([0, 1]))]
    budget: Any = {"keep_channels": 0.1, "keep_share": {"first": 0.07}}
    with pytest.raises(UserError, match=r"does not run \(ZeroDivisionError: .*--round-to"):
        prune(
            Between(narrow), "taylor_2017", X, data=data, loss=functional.cross_entropy,
            **budget, **options,
        )  # fmt: skip


def test_a_time_limit_in_a_trial_is_said() -> None:
    def slow(h: Tensor) -> Tensor:
        if h.shape[1] < 16:
            raise TimeLimitError("it took more than 1 s")
        return h

    with pytest.raises(TimeLimitError):
        prune(Between(slow), "l1", X, keep_macs=0.5)


class Packing(nn.Module):
    """Packs its sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.rest, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        h = self.second(torch.relu(self.first(x)))
        packed = rnn.pack_padded_sequence(h, torch.tensor([3, 2]), batch_first=True)
        return self.head(rnn.pad_packed_sequence(self.rest(packed)[0], batch_first=True)[0])


@pytest.mark.parametrize("metric", ["l1", "magnitude"])
def test_packed_sequences_are_outputs(metric: str) -> None:
    assert prune(Packing(), metric, torch.randn(2, 3, 4), keep_params=0.5)


def test_a_masked_network_is_copied_after_a_pass_with_gradients(tmp_path: Path) -> None:
    pruned = prune(Between(torch.relu), "magnitude", X, keep_params=0.5)
    expected = pruned.model(X)
    assert not pruned.model.get_submodule("first").weight.is_leaf
    assert torch.equal(copy_model(pruned.model)(X), expected)
    assert export_torch(pruned.model, tmp_path / "x.pt2", X) < 1e-5


def test_a_masked_network_is_pruned_after_a_pass_with_gradients() -> None:
    model = Between(torch.relu)
    torch_prune.l1_unstructured(model.second, "weight", 0.5)  # type: ignore[no-untyped-call]
    model(X)
    with pytest.raises(UserError) as refused:
        prune(model, "l1", X, keep_macs=0.5)
    assert "cannot be copied" not in str(refused.value)


def test_bfloat16_with_tied_scores_of_weights() -> None:
    model = nn.Linear(8, 8).bfloat16()
    model.weight.data.fill_(0)
    model.weight.data[0, 0] = 1
    assert prune(model, "magnitude", torch.randn(2, 8).bfloat16(), keep_params=0.5)


def test_complex_weights_are_refused() -> None:
    model = nn.Sequential(
        nn.Linear(4, 8, dtype=torch.complex64), nn.Linear(8, 2, dtype=torch.complex64)
    )
    with pytest.raises(UserError, match=r"complex weights \(torch.complex64\)"):
        prune(model, "magnitude", torch.randn(2, 4, dtype=torch.complex64), keep_params=0.5)


class Sparse(nn.Module):
    """Puts out a sparse tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x)).to_sparse()  # type: ignore[no-any-return]


def test_sparse_outputs_are_compared() -> None:
    pruned = prune(Sparse(), "l1", torch.randn(2, 4), keep_params=0.5)
    assert pruned.after.params < pruned.before.params


class Tied(nn.Module):
    """Looks up rows of the weight of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.head = nn.Linear(6, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(functional.embedding(x, self.head.weight))
        return self.head(h)  # type: ignore[no-any-return]


def test_a_weight_that_is_looked_up_is_said() -> None:
    tokens = torch.arange(4)[None]
    pruned = prune(Tied(), "magnitude", tokens, keep_params=0.5)
    assert "The weights of layer 'head' are looked up" in " ".join(pruned.remarks)
    pruned = prune(Tied(), "magnitude", tokens, keep_params=0.5, ignore=["head"])
    assert "looked up" not in " ".join(pruned.remarks)


def test_why_a_budget_is_missed_where_most_is_kept_whole() -> None:
    def missed(*layers: nn.Linear) -> str:
        x = torch.ones(1, layers[0].in_features)
        pruned = prune(nn.Sequential(*layers), "l1", x, keep_params=0.02)
        return next(remark for remark in pruned.remarks if "missed" in remark)

    most_outside = missed(nn.Linear(8, 20), nn.Linear(20, 8), nn.Linear(8, 90))
    assert "the rest is kept whole" in most_outside and "min-share" not in most_outside
    assert "a smaller --min-share" in missed(nn.Linear(99, 99), nn.Linear(99, 2))


READS: dict[str, Callable[[Tensor], Any]] = {
    "tolist": lambda h: h.tolist(),
    "numpy": lambda h: h.detach().numpy(),
    "array": lambda h: np.asarray(h.detach()),
    "equal": lambda h: torch.equal(h, h),
    "allclose": lambda h: torch.allclose(h, h),
    "item": lambda h: h.sum().item(),
}


@pytest.mark.parametrize("how", READS)
def test_values_that_python_reads_are_noted(how: str) -> None:
    reads = ValueReads()
    with reads:
        torch.relu(X).sum().nonzero()
    assert reads.sizes and not reads.any
    with reads:
        READS[how](X)
    assert reads.any


class Listing(nn.Module):
    """Calls another layer where the values in a list say so."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if x.tolist()[0][0] > 0:
            h = self.b(h)
        return self.c(h)  # type: ignore[no-any-return]


def test_a_branch_on_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="branches on its data: it calls 'b'"):
        prune(Listing(), "l1", torch.ones(1, 4), keep_params=0.5)
    with pytest.raises(UserError, match="branches on the values of its data"):
        export_torch(Listing(), tmp_path / "x.ts", torch.ones(1, 4))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_models_that_are_none_in_loading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was given a value of type str; give what gp_prune"):
        save_pruned("x", tmp_path)  # type: ignore[arg-type]
    pruned = prune(Between(torch.relu), "l1", X, keep_macs=0.5)
    save_pruned(pruned, tmp_path / "out")
    others: tuple[Any, ...] = ("resnet18", None, nn.Linear(2, 3, device="meta"), nn.LazyLinear(3))
    for other in others:
        with pytest.raises(UserError, match=r"give a torch\.nn\.Module|has no weights"):
            load_pruned(tmp_path / "out", other)
    source = tmp_path / "net.py"
    source.write_text("from torch import nn\ndef make():\n    return nn.LazyLinear(3)\n")
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    with pytest.raises(UserError, match="has no weights yet"):
        load_model(f"{source}:make", weights=tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"keep_share": {1: 0.5}}, r"keep_share \(--keep-share\) has the layer 1"),
        ({"interface": "first"}, "interface layers are 'first'; give a list of names"),
        ({"ignore": "first"}, "layers to ignore are 'first'; give a list of names"),
        ({"ignore": [1]}, r"layers to ignore are \[1\]; give a list of names"),
    ],
)
def test_names_of_another_type(option: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        prune(Between(torch.relu), "l1", X, keep_macs=0.5, **option)
