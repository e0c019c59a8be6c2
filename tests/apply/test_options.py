"""Layers that are ignored, and networks that are run in a way of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from gp_prune.apply.options import IGNORED
from gp_prune.apply.prune import prune
from gp_prune.apply.result import PrunedModel
from gp_prune.apply.saving import load_pruned, save_pruned
from gp_prune.errors import UserError
from gp_prune.metric.file import Conventions
from gp_prune.pruning import WeightPlan
from gp_prune.statistics import Batch

Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def test_a_ratio_is_what_goes(residual: nn.Module, images: torch.Tensor) -> None:
    found = prune(residual, "l1", images, pruning_ratio=0.25)
    assert found.plan == prune(residual, "l1", images, keep_channels=0.75).plan
    weights = prune(residual, "magnitude", images, pruning_ratio=0.25)
    assert weights.plan == prune(residual, "magnitude", images, keep_params=0.75).plan


@pytest.mark.parametrize("ratio", [0, 1, -1, 1.5, float("nan"), "half", True])
def test_a_ratio_out_of_range(residual: nn.Module, images: torch.Tensor, ratio: Any) -> None:
    with pytest.raises(
        UserError, match="must be the share to remove, a number greater than 0 and less than 1"
    ):
        prune(residual, "l1", images, pruning_ratio=ratio)


def test_a_ratio_is_a_budget_like_others(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(
        UserError, match=r"exactly one of pruning_ratio, .*, not pruning_ratio and keep_macs"
    ):
        prune(residual, "l1", images, pruning_ratio=0.5, keep_macs=0.5)
    with pytest.raises(UserError, match="leave out pruning_ratio"):
        prune(residual, "magnitude", images, pruning_ratio=0.5, pattern="2:4")
    with pytest.raises(UserError, match="not none"):
        prune(residual, "l1", images)


@pytest.mark.parametrize("name", ["steps", "round_to"])
@pytest.mark.parametrize("value", [None, (2,), 0, 1.0, 10**9 + 1, 10**400])
def test_a_number_of_another_type_is_refused(
    residual: nn.Module, images: torch.Tensor, name: str, value: Any
) -> None:
    options: Any = {name: value}
    with pytest.raises(UserError, match=f"^{name} .* it must be a whole number\\b.* 1\\b"):
        prune(residual, "l1", images, keep_channels=0.5, **options)


@pytest.mark.parametrize("option", [{"round_to": 8}, {"cut_residual": True}])
def test_options_about_channels_mean_nothing_to_weights(
    residual: nn.Module, images: torch.Tensor, option: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(option))} is about channels"):
        prune(residual, "magnitude", images, keep_params=0.5, **option)


@pytest.mark.parametrize("forward_fn", [None, lambda model, inputs: model(inputs["image"])])
def test_inputs_by_name_get_advice_of_their_own(forward_fn: Any, images: torch.Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(UserError, match="forward_fn") as caught:
        prune(model, "l1", {"pixels": images}, keep_channels=0.5, forward_fn=forward_fn)
    assert "--input-shape" not in str(caught.value)


@pytest.mark.parametrize("data", [5, "digits", torch.zeros(3, 6)])
def test_data_that_yields_no_batches(perceptron: nn.Module, data: Any) -> None:
    with pytest.raises(UserError, match=f"the data is of type {type(data).__name__}; give a list"):
        prune(perceptron, "apoz", torch.rand(2, 6), keep_channels=0.5, data=data)


def test_one_batch_alone_is_data(perceptron: nn.Module) -> None:
    x, y = torch.rand(8, 6), torch.arange(8) % 3
    plans = [
        prune(perceptron, "taylor_weights", x[:2], keep_channels=0.5, data=data,
              loss=functional.cross_entropy).plan
        for data in ([(x, y)], (x, y), Batch(x, y, y))
    ]  # fmt: skip
    assert plans[0] == plans[1] == plans[2]


def test_a_data_set_is_data_in_batches(perceptron: nn.Module) -> None:
    x, y = torch.rand(40, 6), torch.arange(40) % 3
    batches = [(x[:32], y[:32]), (x[32:], y[32:])]
    kinds: list[Any] = [batches, TensorDataset(x, y), iter(batches)]
    plans = [
        prune(perceptron, "taylor_weights", x[:2], keep_channels=0.5, data=data,
              loss=functional.cross_entropy, steps=2).plan
        for data in kinds
    ]  # fmt: skip
    assert plans[0] == plans[1] == plans[2]


@pytest.mark.parametrize("names", [["third"], ["th*"], ["[t]hird", "third"]])
def test_channels_of_ignored_layers_stay(
    residual: nn.Module, images: torch.Tensor, names: list[str]
) -> None:
    pruned = prune(residual, "l1", images, keep_channels=0.5, ignore=names, interface=["output"])
    rows = {row.layer: row for row in pruned.rows}
    assert rows["third"].channels_kept == rows["third"].channels
    assert rows["third"].fixed == IGNORED
    assert "interface" in rows["output"].fixed or "output" in rows["output"].fixed
    assert rows["first"].channels_kept == rows["second"].channels_kept == 4
    report = pruned.report()
    assert (report["ignore"], report["interface"]) == (["third"], ["output"])


def test_other_layers_give_more(residual: nn.Module, images: torch.Tensor) -> None:
    pruned = prune(residual, "l1", images, keep_macs=0.5, ignore=["first"])
    rows = {row.layer: row for row in pruned.rows}
    assert rows["first"].channels_kept == 8
    assert rows["third"].channels_kept < 12


def test_ignored_output_keeps_its_own_reason(residual: nn.Module, images: torch.Tensor) -> None:
    pruned = prune(residual, "l1", images, keep_channels=0.5, ignore=["output"])
    assert {row.layer: row for row in pruned.rows}["output"].fixed not in ("", IGNORED)


def test_weights_of_ignored_layers_stay(perceptron: nn.Module) -> None:
    pruned = prune(perceptron, "magnitude", torch.rand(2, 6), keep_params=0.25, ignore=["b"])
    assert isinstance(pruned.plan, WeightPlan)
    assert set(pruned.plan.kept) == {"a", "c"}
    assert {row.layer: row.fixed for row in pruned.rows}["b"] == IGNORED
    whole: Any = pruned.model.get_submodule("b")
    assert not (whole.weight == 0).sum()
    total = sum(perceptron.get_parameter(f"{name}.weight").numel() for name in "ac")
    left = sum(int(pruned.plan.kept[name].unpack().sum()) for name in "ac")
    assert left == round(0.25 * total)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["secnd"], "did you mean 'second'"),
        (["zzz"], "the layers are first, second, third, output"),
        (["norm1"], "did you mean|the layers are"),
        ("third", "give a list of names"),
    ],
)
def test_unknown_layers_to_ignore(
    residual: nn.Module, images: torch.Tensor, names: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        prune(residual, "l1", images, keep_channels=0.5, ignore=names)
    assert "\n" not in str(caught.value)


def test_a_container_to_ignore_gets_a_hint() -> None:
    with torch.random.fork_rng():
        model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"did you mean '0\.\*'"):
        prune(model, "l1", torch.rand(1, 3), keep_channels=0.5, ignore=["0"])


def test_everything_ignored(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(UserError, match=IGNORED):
        prune(residual, "l1", images, keep_channels=0.5, ignore=["*"])


class Request(nn.Module):
    """Takes and returns dictionaries."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"logits": self.inner(request["pixels"][0]), "note": "fine"}


@pytest.mark.usefixtures("short_timing")
@pytest.mark.parametrize("metric", ["l1", "taylor_bn", "grasp", "synflow"])
@pytest.mark.parametrize("steps", [1, 2])
def test_forward_fn_gives_the_same_plan(
    residual: nn.Module, images: torch.Tensor, batches: Pairs, metric: str, steps: int
) -> None:
    budget: dict[str, Any] = (
        {"keep_params": 0.4} if metric in ("grasp", "synflow") else {"keep_macs": 0.4}
    )
    plain = prune(
        residual, metric, images, data=batches, loss=functional.cross_entropy, steps=steps, **budget
    )
    wrapped = Request(residual)
    found = prune(
        wrapped,
        metric,
        {"pixels": [images]},
        data=[({"pixels": [x]}, {"class": y}) for x, y in batches],
        loss=lambda output, target: functional.cross_entropy(output["logits"], target["class"]),
        forward_fn=lambda model, inputs: model(inputs),
        steps=steps,
        time_it=True,
        **budget,
    )
    assert found.before == plain.before
    assert found.after == plain.after
    assert found.times is not None
    with torch.no_grad():
        torch.testing.assert_close(found.model({"pixels": [images]})["logits"], plain.model(images))


def test_dictionaries_of_a_loader(
    residual: nn.Module, images: torch.Tensor, batches: Pairs
) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
            logits = self.inner(pixels)
            loss = None if labels is None else functional.cross_entropy(logits, labels)
            return {"logits": logits} if labels is None else {"loss": loss, "logits": logits}

    found = prune(
        Named(),
        "taylor_bn",
        {"pixels": images},
        data=[{"pixels": x, "labels": y} for x, y in batches],
        loss=lambda output, _: output["loss"],
        keep_macs=0.5,
    )
    plain = prune(
        residual, "taylor_bn", images, data=batches, loss=functional.cross_entropy, keep_macs=0.5
    )
    assert [row.channels_kept for row in found.rows] == [row.channels_kept for row in plain.rows]


def test_batches_are_counted(residual: nn.Module, images: torch.Tensor, batches: Pairs) -> None:
    told: list[tuple[int, int | None]] = []
    prune(
        residual,
        "mean_activation",
        images,
        keep_macs=0.5,
        data=batches,
        batch_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)]


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        output: torch.Tensor = x + self.down(self.up(x).relu())
        return output


def test_attention_is_opened_and_loaded(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, other = Attentive().eval(), Attentive().eval()
    x = torch.rand(2, 3, 8)
    names = [name for name, _ in model.named_modules()]
    pruned = prune(model, "l1", x, keep_macs=0.6)
    assert [name for name, _ in model.named_modules()] == names
    save_pruned(pruned, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path / "out", other)(x), pruned.model(x))


@pytest.mark.usefixtures("short_timing")
@pytest.mark.parametrize("name", ["channels", "macs", "params", "latency"])
def test_old_names_of_budgets_warn(residual: nn.Module, images: torch.Tensor, name: str) -> None:
    budget: dict[str, Any] = {f"keep_{name}": 1.0}
    new = prune(residual, "l1", images, **budget)
    with pytest.warns(
        DeprecationWarning, match=f"{name}=.* is now keep_{name}=.* until 0.2"
    ) as told:
        budget = {name: 1.0}
        old = prune(residual, "l1", images, **budget)
    assert told[0].filename == __file__
    assert (old.counted, old.asked_share) == (new.counted, new.asked_share) == (name, 1.0)


def test_the_old_name_of_the_pruning_ratio_warns(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.warns(DeprecationWarning, match=r"ratio=.* is now pruning_ratio="):
        old = prune(residual, "l1", images, ratio=0.25)
    assert old.plan == prune(residual, "l1", images, pruning_ratio=0.25).plan


def test_a_budget_by_both_names_is_refused(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.warns(DeprecationWarning), pytest.raises(UserError, match="leave out macs"):
        prune(residual, "l1", images, macs=0.5, keep_macs=0.5)


def test_names_that_were_never_there(residual: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'flops'"):
        prune(residual, "l1", images, flops=0.5)  # type: ignore[call-arg]


def widths(pruned: PrunedModel) -> dict[str, int]:
    return {row.layer: row.channels_kept for row in pruned.rows}


def uneven() -> nn.Sequential:
    """Return a network whose layer 0 has the lowest scores by far."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Linear(6, 50)
        first.weight.data *= 0.001
        return nn.Sequential(
            first, nn.ReLU(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 30),
            nn.ReLU(), nn.Linear(30, 4),
        ).eval()  # fmt: skip


PLAIN = Conventions("global", "none", "mean")
ROW = torch.zeros(2, 6)


def test_every_layer_keeps_a_tenth_unless_it_is_switched_off() -> None:
    def cut(**options: Any) -> PrunedModel:
        return prune(uneven(), "l1", ROW, keep_channels=0.5, conventions=PLAIN, **options)

    assert widths(cut())["0"] == 5 and widths(cut())["2"] + widths(cut())["4"] == 55
    assert widths(cut(min_share=0.25))["0"] == 13
    assert widths(cut(min_share=0))["0"] == 1
    assert "Layer '0' keeps 1 of 50 channels, where 50.0 % of all" in cut(min_share=0).remarks[0]
    assert "Layer '0' keeps 5 of 50 channels" in cut().remarks[0]
    # A floor of a tenth means a tenth of the whole network, not of what the step before left.
    assert widths(cut(steps=3))["0"] == 5
    assert cut().report()["min_share"] == 0.1


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("scope", ["layer", "global", "isomorphic"])
def test_layers_keep_the_share_that_is_given(scope: str, steps: int) -> None:
    pruned = prune(
        uneven(), "l1", ROW, keep_channels=0.5, conventions=Conventions(scope, "none", "mean"),
        keep_share={"[02]": 0.3, "0": 0.8}, steps=steps,
    )  # fmt: skip
    # The name of a layer counts more than a pattern, and layer 4 gives the rest of the budget.
    assert widths(pruned) | {"2": 12, "0": 40, "4": 8} == widths(pruned)
    assert pruned.met and pruned.achieved.channels == 0.5
    assert pruned.report()["keep_share"] == {"[02]": 0.3, "0": 0.8}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_share": 1.5}, "min_share (--min-share) is 1.5; it must be a number, at least 0"),
        ({"min_share": -0.1}, "min_share (--min-share) is -0.1"),
        ({"min_share": "a"}, "min_share (--min-share) is 'a'"),
        ({"keep_share": {"0": 0}}, "the share to keep of '0' (--keep-share) is 0; it must be"),
        ({"keep_share": {"0": "half"}}, "is 'half'"),
        ({"keep_share": 0.5}, "keep_share is 0.5; give a dictionary"),
        ({"keep_share": {"9": 0.5}}, "no layer with a share to keep is called '9'"),
        ({"keep_share": {"6": 0.5}}, "the share to keep of '6' means nothing, because '6' is kept"),
    ],
)
def test_floors_and_shares_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        prune(uneven(), "l1", ROW, keep_channels=0.5, **options)
    assert words in str(refused.value)


@pytest.mark.parametrize("option", [{"ignore": ("9",)}, {"keep_share": {"9": 0.5}}])
def test_names_of_layers_are_checked_before_anything_runs(
    option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = uneven()
    monkeypatch.setattr(type(network), "forward", None)
    with pytest.raises(UserError, match=r"no layer .* is called '9'; the layers are 0, 2,"):
        prune(network, "l1", ROW, keep_channels=0.5, **option)


@pytest.mark.parametrize("option", [{"min_share": 0.2}, {"keep_share": {"0": 0.5}}])
def test_floors_are_of_channels(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is about channels; leave out"):
        prune(uneven(), "magnitude", ROW, keep_params=0.5, **option)


def test_a_metric_of_batch_norms_on_a_network_without_any_is_told() -> None:
    x, y = torch.rand(8, 6), torch.arange(8) % 4
    options: Any = {"data": [(x, y)], "loss": functional.cross_entropy, "keep_channels": 0.5}
    told = " ".join(prune(uneven(), "taylor_bn", ROW, **options).remarks)
    assert "'taylor_bn' reads batch norms (" in told and "the network has none" in told
    with_norm = nn.Sequential(nn.Linear(6, 50), nn.BatchNorm1d(50), *[*uneven()][1:])
    told = " ".join(prune(with_norm.eval(), "taylor_bn", ROW, **options).remarks)
    assert "batch norms" not in told
