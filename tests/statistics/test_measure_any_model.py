"""Models with inputs and outputs of any kind, and the progress of a pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.errors import UserError
from gp_prune.language.record import NEEDS, LayerRecord
from gp_prune.statistics import Batch, Consumer, collect, surroundings

READERS = {"hidden": (Consumer("output", tuple((q,) for q in range(5))),)}
Loader = list[Batch] | Iterator[Batch]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.output = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        return self.output(self.norm(self.hidden(x)).relu())


class Wrapped(Plain):
    """The same network behind other manners: a dictionary in, a dictionary out."""

    def forward(self, request: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        assert request["word"] == "go"
        return {"more": [1], "logits": super().forward(request["images"][0])}


def weights() -> tuple[Plain, Wrapped]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, wrapped = Plain(), Wrapped()
        nn.init.uniform_(plain.norm.weight)
    wrapped.load_state_dict(plain.state_dict())
    return plain, wrapped


def data(sizes: tuple[int, ...] = (5, 2, 4)) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), 4, generator=generator)
    y = torch.arange(sum(sizes)) % 3
    return [Batch(a, b, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]  # type: ignore[no-untyped-call]


def assert_same(one: dict[str, LayerRecord], other: dict[str, LayerRecord]) -> None:
    assert list(one) == list(other)
    for name in one:
        for field, value in vars(one[name]).items():
            found = getattr(other[name], field)
            if isinstance(value, Tensor):
                torch.testing.assert_close(found, value)
            else:
                assert (found is None) == (value is None)


@pytest.mark.filterwarnings("ignore::gp_prune.statistics.pairing.PairingWarning")
@pytest.mark.parametrize("need", [*sorted(NEEDS), "all"])
def test_dictionaries_in_and_out_give_what_tensors_give(need: str) -> None:
    plain, wrapped = weights()
    needs = set(NEEDS) if need == "all" else {need}
    expected = collect(
        plain, None, data(), needs=needs, loss=functional.cross_entropy, outgoing=READERS,
        places={},
    )  # fmt: skip
    nested = [
        Batch({"images": [b.inputs], "word": "go"}, {"class": (b.target, None)}, b.labels)
        for b in data()
    ]
    found = collect(
        wrapped,
        None,
        nested,
        needs=needs,
        loss=lambda out, target: functional.cross_entropy(out["logits"], target["class"][0]),
        outgoing=READERS,
        places={},
        forward_fn=lambda model, inputs: model(inputs),
    )
    assert_same(expected, found)


@pytest.mark.parametrize("need", ["outputs", "gradients", "hessian", "labels", "second_moments"])
def test_batches_of_any_size_give_the_same(need: str) -> None:
    model, _ = weights()
    found = [
        collect(model, None, data(sizes), needs={need}, loss=functional.cross_entropy)
        for sizes in ((11,), (5, 2, 4), (1,) * 11, (0, 10, 0, 1))
    ]
    for other in found[1:]:
        assert_same(found[0], other)


def test_labels_are_looked_at_only_when_needed() -> None:
    model, _ = weights()
    odd = [Batch(b.inputs, b.target, torch.full((len(b.inputs),), -100)) for b in data()]
    assert_same(
        collect(model, None, odd, needs={"outputs"}),
        collect(model, None, data(), needs={"outputs"}),
    )
    with pytest.raises(UserError, match="one integer per sample"):
        collect(model, None, odd, needs={"labels"})


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(("need", "passes"), [("outputs", 1), ("fisher", 1), ("hessian", 2)])
def test_progress_counts_every_batch_of_every_pass(sized: bool, need: str, passes: int) -> None:
    class Stream:
        def __iter__(self) -> Iterator[Batch]:
            return iter(data())

    told: list[tuple[int, int | None]] = []
    model, _ = weights()
    batches: Any = data() if sized else Stream()
    collect(
        model,
        None,
        batches,
        needs={need},
        loss=functional.cross_entropy,
        progress=lambda done, total: told.append((done, total)),
    )
    count = 3 * passes
    if sized:
        assert told == [(n, count) for n in range(1, count + 1)]
    else:
        assert told == [(n, None) for n in (1, 2, 3)] * passes


def test_no_pass_no_progress() -> None:
    def never(done: int, total: int | None) -> None:
        raise AssertionError

    model, _ = weights()
    collect(model, None, data(), needs=set(), progress=never)


def test_interrupting_the_progress_restores_the_model() -> None:
    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    model, _ = weights()
    model.train()
    random = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        collect(
            model,
            None,
            data(),
            needs=set(NEEDS),
            loss=functional.cross_entropy,
            outgoing=READERS,
            places={},
            progress=stop,
        )
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_batches_that_fail_restore_the_model() -> None:
    def broken() -> Iterator[Batch]:
        yield data()[0]
        raise OSError("the disk went away")

    model, _ = weights()
    model.train()
    with pytest.raises(OSError, match="went away"):
        collect(model, None, broken(), needs={"outputs"})
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("need", ["gradients", "fisher", "hessian", "output_gradients", "labels"])
def test_batches_that_are_too_large_for_autograd_run_in_parts(
    need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = weights()
    sizes: list[int] = []
    model.hidden.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    loss = functional.cross_entropy
    expected = collect(model, None, data((40, 9)), needs={need}, loss=loss)
    whole = max(sizes)
    sizes.clear()
    monkeypatch.setattr(surroundings, "GRAPH_BYTES", 1000)
    found = collect(model, None, data((40, 9)), needs={need}, loss=loss)
    assert_same(expected, found)
    if need == "labels":
        assert max(sizes) == whole == 40  # no backward pass
    else:
        assert whole >= 32
        assert max(sizes[1:]) <= 1000 // (4 * (5 + 5 + 3))
