"""Bytes and times of the networks of the front."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gp_prune.genetic.convolution_times import Convolutions, compare_convolutions
from gp_prune.genetic.front import count_stored_bytes

MakeNetwork = Callable[[str], tuple[nn.Module, Tensor]]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_bytes_are_those_of_torch() -> None:
    layer = nn.Linear(40, 30)
    kept = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.1
    with torch.no_grad():
        layer.weight *= kept
    sparse = layer.weight.detach().to_sparse_csr()
    indices = [part.int() for part in (sparse.crow_indices(), sparse.col_indices())]
    expected = sum(part.nbytes for part in (*indices, sparse.values(), layer.bias))
    assert count_stored_bytes(layer).csr == expected
    assert count_stored_bytes(layer).dense == 4 * (30 * 40 + 30)


def test_a_dense_matrix_is_stored_as_it_is() -> None:
    found = count_stored_bytes(nn.Linear(5, 6))
    assert found.csr == found.dense == 4 * 36


def test_convolutions_run_on_what_reaches_them(networks: MakeNetwork) -> None:
    model, inputs = networks("cnn")
    alone = Convolutions(model, inputs)
    assert len(alone.layers) == 4
    seen = []
    hooks = [layer.register_forward_hook(lambda *args: seen.append(args[2])) for layer in
             alone.layers]  # fmt: skip
    alone(inputs)
    ours, seen[:] = list(seen), []
    model(inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, seen, strict=True))
    for hook in hooks:
        hook.remove()


def test_what_has_no_convolution_takes_no_time(networks: MakeNetwork) -> None:
    model, inputs = networks("autoencoder")
    assert compare_convolutions(model, model, inputs) is None
    lenet, images = networks("lenet")
    turns = compare_convolutions(lenet, lenet, images.repeat(20, 1, 1, 1))
    assert turns is not None
    assert 0.2 < turns.lower <= turns.share <= turns.upper < 5
