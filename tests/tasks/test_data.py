from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gp_prune.errors import UserError
from gp_prune.tasks.data import _digits_table, load_data, stratified_split

pytestmark = pytest.mark.filterwarnings("ignore::gp_prune._compat.TorchvisionWarning")


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of the MNIST files: magic number, sizes (big endian), bytes."""
    header = bytes([0, 0, 8, array.ndim])
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + sizes + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", train: int = 60, test: int = 20) -> None:
    random = np.random.RandomState(0)
    for prefix, count in (("train", train), ("t10k", test)):
        raw = root / name / "raw"
        images = random.randint(0, 256, (count, 28, 28))
        images[:, 0, 0] = 255
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)


CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def write_cifar_binary(root: Path, records: int = 8) -> dict[str, np.ndarray]:
    """CIFAR-10's binary version with few records; gives what stands in each file."""
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(0)
    written = {}
    for name in CIFAR_FILES:
        content = random.randint(0, 256, (records, 3073)).astype(np.uint8)
        content[:, 0] = random.randint(0, 10, records)
        content.tofile(folder / name)
        written[name] = content
    return written


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    shares=st.lists(st.integers(0, 100), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_stratified_split_is_exact_disjoint_and_fair(
    labels: list[int], shares: list[int], seed: int
) -> None:
    total = max(sum(shares), 100)
    sizes = tuple(len(labels) * share // total for share in shares)
    parts = stratified_split(torch.tensor(labels), sizes, seed)
    assert tuple(len(part) for part in parts) == sizes
    together = np.concatenate(parts)
    assert len(set(together.tolist())) == len(together)
    classes = np.asarray(labels)
    for label in set(labels):
        of_class = classes == label
        for part in parts:
            fair = len(part) * of_class.mean()
            # Each end of a part may cut a class, and the line as a whole, by less than one place
            # per class.
            assert abs(of_class[part].sum() - fair) <= 2 * len(set(labels))


def test_a_split_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        stratified_split(torch.zeros(5), (3, 3), 0)


def test_digits_are_cut_into_three_parts_that_make_up_the_whole() -> None:
    from sklearn.datasets import load_digits

    data = load_data("digits", Path("unused"))
    parts = (data.train, data.validation, data.read_test())
    assert [len(part.labels) for part in parts] == [1077, 360, 360]
    assert data.shape == (1, 8, 8)
    pixels, labels = load_digits(return_X_y=True)
    expected = sorted((*row, label) for row, label in zip(pixels.tolist(), labels, strict=True))
    found = sorted(
        (*(image.flatten() * 16).tolist(), int(label))
        for part in parts
        for image, label in zip(part.inputs, part.labels, strict=True)
    )
    assert found == expected
    for part in parts:
        share = part.labels.bincount(minlength=10) / len(part.labels)
        torch.testing.assert_close(
            share, torch.from_numpy(np.bincount(labels) / 1797).float(), atol=0.004, rtol=0
        )


def test_digits_are_the_same_where_their_file_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = _digits_table()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert direct.shape == (1797, 65)
    assert np.array_equal(_digits_table(), direct)


def test_digits_are_the_same_every_time_and_leave_the_random_state_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)
    first, second = (load_data("digits", Path("unused")) for _ in range(2))
    assert first.fingerprint() == second.fingerprint()
    assert torch.equal(first.read_test().inputs, second.read_test().inputs)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_state)


def test_the_fingerprint_notices_one_pixel_and_one_label() -> None:
    data = load_data("digits", Path("unused"))
    before = data.fingerprint()
    data.validation.inputs[3, 0, 2, 2] += 0.5
    changed = data.fingerprint()
    data.train.labels[0] = (data.train.labels[0] + 1) % 10
    assert len({before, changed, data.fingerprint()}) == 3


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_mnist_files_are_read_and_the_official_test_set_is_the_test_split(
    tmp_path: Path, name: str, folder: str
) -> None:
    write_mnist(tmp_path, folder)
    data = load_data(name, tmp_path)
    test = data.read_test()
    assert [len(part.labels) for part in (data.train, data.validation, test)] == [48, 12, 20]
    assert data.train.inputs.shape[1:] == (1, 28, 28)
    assert data.train.inputs.dtype == torch.float32
    assert (float(data.train.inputs.min()), float(data.train.inputs.max())) == (0, 1)
    assert test.labels.tolist() == [*range(10), *range(10)]
    assert data.validation.labels.bincount(minlength=10).min() >= 1


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "MNIST/raw"),
        ("fashionmnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
    ],
)
def test_missing_files_make_an_error_that_names_folder_and_remedy(
    tmp_path: Path, name: str, folder: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_data(name, tmp_path)
    message = str(caught.value)
    assert str(tmp_path / folder) in message
    assert "--data-root" in message
    assert "--download" in message
    assert ". " not in message  # one sentence


def test_a_truncated_file_makes_the_same_error(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = path.read_bytes()
    for length in (0, 3, 16, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read"):
            load_data("mnist", tmp_path)


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    write_idx(labels, np.arange(59) % 10)
    with pytest.raises(UserError, match="60 images, 59 labels"):
        load_data("mnist", tmp_path)
    write_idx(labels, np.full(60, 10))
    with pytest.raises(UserError, match="0 to 9"):
        load_data("mnist", tmp_path)


def test_cifar10_files_that_are_not_the_published_ones_are_never_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    # Unpickling this would make a file.
    trap = tmp_path / "trap"
    code = f"cbuiltins\nopen\n(V{trap}\nVw\ntR.".encode()
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(code)
    with pytest.raises(UserError, match=r"cifar-10-batches-py .*corrupted"):
        load_data("cifar10", tmp_path)
    assert not trap.exists()


def test_the_binary_version_of_cifar10_is_read_byte_for_byte(tmp_path: Path) -> None:
    written = write_cifar_binary(tmp_path)
    data = load_data("cifar10", tmp_path)
    test = data.read_test()
    assert data.shape == (3, 32, 32)
    assert [len(part.labels) for part in (data.train, data.validation, test)] == [32, 8, 8]
    expected = written["test_batch.bin"]
    assert test.labels.tolist() == expected[:, 0].tolist()
    # Red, green, blue, each row by row from the top left.
    for sample, channel, row, column in ((0, 0, 0, 0), (3, 1, 2, 5), (7, 2, 31, 31)):
        byte = int(expected[sample, 1 + channel * 1024 + row * 32 + column])
        torch.testing.assert_close(
            test.inputs[sample, channel, row, column], torch.tensor(byte / 255)
        )
    together = torch.cat([data.train.inputs, data.validation.inputs]).mul(255).round()
    found = sorted(map(tuple, together.flatten(1).byte().tolist()))
    train = np.concatenate([written[name] for name in CIFAR_FILES[:5]])
    assert found == sorted(map(tuple, train[:, 1:].tolist()))


def test_the_binary_version_of_cifar10_is_preferred_and_needs_no_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar_binary(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"no pickle")
    monkeypatch.setattr("gp_prune.tasks.data.import_torchvision", None)
    assert load_data("cifar10", tmp_path).classes == 10


@pytest.mark.parametrize("name", CIFAR_FILES)
def test_a_missing_file_of_the_binary_version_is_named(tmp_path: Path, name: str) -> None:
    write_cifar_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / name).unlink()
    with pytest.raises(
        UserError, match=rf"cifar-10-batches-bin \({name} is missing\).*--data-root"
    ):
        load_data("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_3.bin", "test_batch.bin"])
@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (0, "0 bytes, no whole number of 3073-byte records"),
        (3072, "3072 bytes, no whole number"),
        (8 * 3073 - 1, "24583 bytes, no whole number"),
        (7 * 3073, "7 records, .* has 8, all must have as many"),
    ],
)
def test_a_truncated_file_of_the_binary_version_is_named(
    tmp_path: Path, name: str, length: int, reason: str
) -> None:
    path = tmp_path / "cifar-10-batches-bin" / name
    write_cifar_binary(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"{name} has {reason}") as caught:
        load_data("cifar10", tmp_path)
    assert ". " not in str(caught.value)  # one sentence


def test_a_label_above_9_in_the_binary_version_is_refused(tmp_path: Path) -> None:
    write_cifar_binary(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_4.bin"
    content = bytearray(path.read_bytes())
    content[3073 * 5] = 10
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data_batch_4\.bin has the label 10, .* 0 to 9"):
        load_data("cifar10", tmp_path)


def test_where_no_cifar10_is_found_both_versions_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar-10-batches-py.*no cifar-10-batches-bin beside it"):
        load_data("cifar10", tmp_path)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="'svhn'; choose one of digits, mnist"):
        load_data("svhn", Path("unused"))
