"""Folders and images as people have them: hidden files, links, 16 bits, damaged and huge files."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gp_prune._compat import import_torchvision
from gp_prune.errors import UserError
from gp_prune.tasks.image_folder import find_images, read_image
from gp_prune.tasks.images import fit_image

RAMP = np.linspace(0, 1, 64)
SHAPE = (1, 8, 8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes a and b, with two images each."""
    folder = tmp_path / "images"
    for name in ("a/1", "a/2", "b/1", "b/2"):
        save(folder / f"{name}.png")
    return folder


def save(path: Path, values: Any = None, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8), 7, np.uint8) if values is None else values
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def relative(root: Path) -> list[tuple[str, int]]:
    paths, labels = find_images(root)
    assert labels is not None
    return [(os.path.relpath(p, root), n) for p, n in zip(paths, labels.tolist(), strict=True)]


PLAIN = [("a/1.png", 0), ("a/2.png", 0), ("b/1.png", 1), ("b/2.png", 1)]


def test_the_order_is_that_of_torchvision(root: Path) -> None:
    save(root / "b" / "sub" / "0.PNG")
    save(root / "b" / "9.png")
    (root / "b" / "notes.txt").write_text("no image")
    theirs = import_torchvision().datasets.ImageFolder(str(root)).samples
    paths, labels = find_images(root)
    assert labels is not None
    assert list(zip(paths, labels.tolist(), strict=True)) == theirs


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".hidden", "__MACOSX", "@eaDir", "lost+found"]
)
@pytest.mark.parametrize("full", [True, False])
def test_what_is_hidden_is_no_class(root: Path, name: str, full: bool) -> None:
    (root / name).mkdir()
    (root / "a" / name).mkdir()
    (root / ".DS_Store").write_bytes(b"x")
    (root / "a" / "._1.png").write_bytes(b"resource fork")
    if full:
        save(root / name / "1.png")
        save(root / "a" / name / "1.png")
    assert relative(root) == PLAIN


def test_a_class_without_images_is_named(root: Path) -> None:
    (root / "aa").mkdir()
    (root / "aa" / "readme.txt").write_text("soon")
    with pytest.raises(UserError, match=r"class folder 'aa' .* has no images, .* number 1 of the"):
        find_images(root)


def test_folders_without_classes_are_said_to_have_none(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    save(tmp_path / ".ipynb_checkpoints" / "1.png")
    with pytest.raises(UserError, match="has no images in folders of classes; it needs one folder"):
        find_images(tmp_path)


def test_links_lead_to_every_image_once(root: Path, tmp_path: Path) -> None:
    outside = save(tmp_path / "more" / "3.png").parent
    (root / "a" / "up").symlink_to("..")
    (root / "b" / "self").symlink_to(".")
    (root / "b" / "root").symlink_to("/")
    (root / "b" / "other").symlink_to(root / "a", target_is_directory=True)
    (root / "b" / "again.png").symlink_to(root / "a" / "1.png")
    (root / "b" / "twice.png").symlink_to(root / "b" / "1.png")
    (root / "b" / "nothing").symlink_to("no/where")
    (root / "b" / "extra").symlink_to(outside)
    (root / "b" / "more").symlink_to(outside)
    (outside / "back").symlink_to(root)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "endless.png").symlink_to("/dev/zero")
    assert relative(root) == [*PLAIN, ("b/extra/3.png", 1)]
    real = {os.path.realpath(path) for path in find_images(root).paths}
    assert len(real) == 5


def test_links_to_themselves_and_hard_links(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "a" / "loop.png").symlink_to("loop.png")
    (root / "b" / "loop").symlink_to("loop")
    os.link(root / "a" / "1.png", root / "a" / "3.png")
    (root / "a" / "4.png").symlink_to(root / "a" / "3.png")
    os.link(root / "a" / "1.png", root / "b" / "0.png")
    assert len(relative(root)) == 4


def test_dark_colours_of_16_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for largest, refused in ((4095, True), (40_000, False)):
        rows = np.linspace(0, largest, 8 * 8 * 3).astype(">u2").reshape(8, -1)
        packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + b"".join(
                struct.pack(">I", len(body))
                + kind
                + body
                + struct.pack(">I", zlib.crc32(kind + body))
                for kind, body in chunks
            )
        )
        if refused:
            with pytest.raises(UserError, match="16 bits per channel, of which the upper 8"):
                read_image(str(path), (3, 8, 8))
        else:
            assert read_image(str(path), (3, 8, 8)).max() == pytest.approx(
                largest / 65535, abs=0.01
            )


def test_what_is_really_inside_a_class_has_its_label(root: Path) -> None:
    """A link of class a into a folder of class c takes nothing from it."""
    save(root / "c" / "sub" / "1.png")
    (root / "a" / "sub").symlink_to(root / "c" / "sub")
    assert relative(root) == [*PLAIN, ("c/sub/1.png", 2)]
    (root / "d").symlink_to("c")
    with pytest.raises(UserError, match=r"class folders 'c' and 'd' .* are the same folder"):
        find_images(root)


def test_classes_and_images_may_be_links(root: Path, tmp_path: Path) -> None:
    save(tmp_path / "far" / "1.png")
    (root / "c").symlink_to(tmp_path / "far")
    (root / "d").mkdir()
    (root / "d" / "5.png").symlink_to(save(tmp_path / "other.png"))
    assert relative(root) == [*PLAIN, ("c/1.png", 2), ("d/5.png", 3)]


def test_an_unreadable_folder_is_one_sentence(root: Path, monkeypatch: Any) -> None:
    def scandir(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"cannot be read: .*images: Permission denied"):
        find_images(root)


@pytest.mark.parametrize(
    ("pixels", "ending"),
    [
        ((RAMP * 65535).astype(np.uint16), "png"),
        ((RAMP * 65535).astype(np.uint16), "tif"),
        ((RAMP * 65535).astype(np.uint16), "pgm"),
        ((RAMP * 65535).astype(">u2"), "tif"),
        (RAMP.astype(np.float32), "tif"),
        ((RAMP * 255).astype(np.uint8), "png"),
    ],
    ids=["png 16", "tif 16", "pgm 16", "big-endian 16", "float", "8"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_depth_keeps_its_range(
    tmp_path: Path, pixels: Any, ending: str, channels: int
) -> None:
    path = tmp_path / f"ramp.{ending}"
    if ending == "pgm":
        path.write_bytes(b"P5 8 8 65535\n" + pixels.astype(">u2").tobytes())
    elif pixels.dtype == np.dtype(">u2"):
        Image.frombytes("I;16B", (8, 8), pixels.tobytes()).save(path)
    else:
        Image.fromarray(pixels.reshape(8, 8)).save(path)
    image = fit_image(read_image(str(path), (channels, 8, 8)), (channels, 8, 8))
    expected = torch.from_numpy(RAMP).float().reshape(1, 8, 8).expand(channels, 8, 8)
    torch.testing.assert_close(image, expected, atol=1 / 255, rtol=0)
    assert len(set(image.flatten().tolist())) == 64


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.arange(64, dtype=np.int32), "integers of 32 bits"),
        (np.arange(64, dtype=np.float32), "floats from 0 to 63; scale them to 0 to 1"),
        (np.full(64, np.nan, np.float32), "floats from nan to nan"),
        (-RAMP.astype(np.float32), "floats from -1 to"),
    ],
)
def test_values_without_a_known_range_are_refused(tmp_path: Path, pixels: Any, words: str) -> None:
    path = save(tmp_path / "x.tif", pixels.reshape(8, 8))
    with pytest.raises(UserError, match=words):
        read_image(str(path), SHAPE)


@pytest.mark.parametrize(
    ("mode", "ending", "channels", "read"),
    [
        ("L", "png", 4, 1), ("P", "png", 1, 3), ("P", "png", 3, 3), ("RGBA", "png", 4, 4),
        ("RGBA", "png", 3, 3), ("RGBA", "png", 1, 3), ("CMYK", "tif", 4, 4), ("CMYK", "jpg", 3, 3),
        ("LA", "png", 2, 2), ("LA", "png", 1, 1), ("LA", "png", 3, 1), ("1", "png", 3, 1),
        ("RGB", "png", 4, 3),
    ],
)  # fmt: skip
def test_modes_and_channels(
    tmp_path: Path, mode: str, ending: str, channels: int, read: int
) -> None:
    path = save(tmp_path / f"x.{ending}", None, mode)
    image = read_image(str(path), (channels, 8, 8))
    assert image.shape == (read, 8, 8) and 0 <= image.min() <= image.max() <= 1
    fits = read == channels or read == 1 or (read == 3 and channels == 1)
    if fits:
        assert fit_image(image, (channels, 8, 8)).shape == (channels, 8, 8)
    else:
        with pytest.raises(UserError, match=f"have 3 channels, the network takes {channels}"):
            fit_image(image, (channels, 8, 8))


def test_two_classes_of_16_bits_are_told_apart(tmp_path: Path) -> None:
    """Clipped to 8 bits both would be white."""
    means = []
    for low, high in ((300, 20_000), (40_000, 65_000)):
        values = np.random.default_rng(0).integers(low, high, (8, 8), dtype=np.uint16)
        means.append(float(read_image(str(save(tmp_path / "x.png", values)), SHAPE).mean()))
    assert means[0] < 0.35 < 0.55 < means[1]


def test_8_bits_are_read_as_torchvision_does(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    path = save(tmp_path / "x.png", values)
    expected = import_torchvision().transforms.functional.to_tensor(Image.open(path))
    assert torch.equal(read_image(str(path), (3, 5, 5)), expected)


def png(width: int, height: int, *kinds: bytes) -> bytes:
    """Return a PNG of a size in its header, with empty chunks of these kinds and no pixels."""

    def chunk(kind: bytes, data: bytes = b"") -> bytes:
        length, check = len(data), zlib.crc32(kind + data)
        return struct.pack(">I", length) + kind + data + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(map(chunk, (*kinds, b"IDAT", b"IEND")))


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", png(8, 8, b"\x00\x01\x02\x03"), png(8, 8),
     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
     b"P5 8 8 65535\nshort", b"BM" + b"\xff" * 60],
)  # fmt: skip
def test_damaged_images_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png' cannot be read; remove or replace it"):
        read_image(str(tmp_path / "x.png"), SHAPE)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), ending=st.sampled_from(["png", "jpg", "tif", "webp", "bmp"]))
def test_mutated_images_are_read_or_refused(
    tmp_path: Path, data: st.DataObject, ending: str
) -> None:
    values = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    path = save(tmp_path / f"x.{ending}", values)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        image = read_image(str(path), (3, 4, 4))
    except UserError as error:
        assert "x." in str(error) and "\n" not in str(error)
    else:
        assert bool(image.isfinite().all())


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (3, 9000)])
def test_long_images_do_not_grow(tmp_path: Path, size: tuple[int, int]) -> None:
    path = save(tmp_path / "x.png", np.full(size, 255, np.uint8))
    image = read_image(str(path), (1, 16, 16))
    assert max(image.shape) <= 8 * 3 and torch.equal(
        fit_image(image, (1, 16, 16)), torch.ones(1, 16, 16)
    )


@pytest.mark.parametrize("side", [14_000, 60_000])
def test_images_beyond_the_limit_are_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "x.png").write_bytes(png(side, side))
    with pytest.raises(UserError, match=r"x\.png' .*; make it smaller, or remove it"):
        read_image(str(tmp_path / "x.png"), SHAPE)


@pytest.mark.slow
def test_an_image_that_is_made_smaller_first_is_the_same(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 9, 4203), np.linspace(0, 7, 4357))
    path = save(tmp_path / "x.png", (127 + 120 * np.sin(x) * np.cos(y)).astype(np.uint8))
    image = read_image(str(path), (1, 17, 21))
    assert image.numel() < 4203 * 4357 / 40**2
    whole = import_torchvision().transforms.functional.to_tensor(Image.open(path))
    expected = fit_image(whole, (1, 17, 21))
    torch.testing.assert_close(fit_image(image, (1, 17, 21)), expected, atol=0.01, rtol=0)


_LARGE = """
import resource, sys, torch
from gp_prune.tasks.image_folder import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = read_image(sys.argv[1], (3, 224, 224))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
torch.save(image, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_a_large_image_takes_a_few_bytes_per_pixel(tmp_path: Path, mode: str) -> None:
    half = np.zeros((10_000, 10_000), np.uint8)
    half[5_000:] = 255
    path = tmp_path / "x.png"
    Image.fromarray(half).convert(mode).save(path, compress_level=1)
    out = subprocess.run(
        [sys.executable, "-c", _LARGE, str(path), str(tmp_path / "x.pt")],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert int(out.stdout) < 700
    image = fit_image(torch.load(tmp_path / "x.pt"), (3, 224, 224))
    assert float(image[:, :110].max()) == 0 and float(image[:, 114:].min()) > 0.999
