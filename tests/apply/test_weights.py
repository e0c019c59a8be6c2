"""Files of weights that anybody may have made: what does not fit is named, nothing is guessed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from gp_prune.apply.weights import load_weights, put_state
from gp_prune.errors import UserError


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def with_value(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.zeros(6, dtype=dtype)
    tensor[2] = value
    return tensor


@pytest.mark.parametrize("name", ["0.bias", "1.running_mean"])
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(6, dtype=torch.complex64), "of type torch.complex64, the network of type"),
        (torch.zeros(6, dtype=torch.int8), "of type torch.int8"),
        (torch.zeros(6, dtype=torch.bool), "of type torch.bool"),
        (torch.zeros(6).to(torch.float8_e4m3fn), "of type torch.float8_e4m3fn"),
        (torch.zeros(6).to(torch.float8_e5m2), "of type torch.float8_e5m2"),
        (with_value(torch.nan), "1 of 6 values NaN or infinite"),
        (with_value(-torch.inf, torch.float64), "1 of 6 values NaN or infinite"),
        (torch.zeros(7), r"of shape \(7,\), the network of shape \(6,\)"),
    ],
)
def test_a_tensor_of_another_kind_is_named(
    tmp_path: Path, name: str, tensor: Tensor, words: str
) -> None:
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for path, save in (
        (tmp_path / "w.safetensors", save_file),
        (tmp_path / "w.pt", torch.save),
    ):
        save({**model.state_dict(), name: tensor}, path)
        with pytest.raises(UserError, match=words) as caught:
            load_weights(model, path)
        assert repr(name) in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_counter_is_a_whole_number() -> None:
    model = network()
    state = {**model.state_dict(), "1.num_batches_tracked": torch.tensor(2.5)}
    with pytest.raises(UserError, match=r"'1.num_batches_tracked' of type torch.float32"):
        put_state(model, state, "it")


def test_real_types_may_differ_and_infinities_by_design_may_stay() -> None:
    model = network()
    model.register_buffer("causal", torch.full((3, 3), -torch.inf).triu(1))
    state = {
        name: value.double() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    put_state(model, state, "it")
    assert model.state_dict()["0.weight"].dtype == torch.float32
    state["causal"] = torch.full((3, 3), -torch.inf)
    with pytest.raises(UserError, match="'causal' with 6 of 9 values NaN or infinite"):
        put_state(model, state, "it")


@pytest.mark.parametrize("value", [5.0, 0.5, -1.0, torch.nan])
def test_a_mask_is_of_zeros_and_ones(value: float) -> None:
    model = nn.Linear(6, 1)
    torch_prune.identity(model, "weight")  # type: ignore[no-untyped-call]
    state = dict(model.state_dict())
    state["weight_mask"] = with_value(value).reshape(1, 6)
    with pytest.raises(UserError, match="'weight_mask', a mask, with values other than 0 and 1"):
        put_state(model, state, "it")


def test_pipes_devices_and_folders_are_no_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    for path in (tmp_path / "pipe.safetensors", tmp_path / "pipe.pt", Path("/dev/zero")):
        with pytest.raises(UserError, match="it is a pipe or a device, not a regular file"):
            load_weights(network(), path)
    with pytest.raises(UserError, match="Is a directory"):
        load_weights(network(), tmp_path / "folder.pt")


def test_a_file_larger_than_the_network_is_not_read(tmp_path: Path) -> None:
    big = tmp_path / "big.safetensors"
    with big.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(UserError, match="more than the 16 MB that it may have"):
        load_weights(network(), big)
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**26))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(UserError, match="more than the 16 MB that the weights"):
        load_weights(network(), bomb)
