"""Find the images of a folder that has one folder per class, and read them as they are needed.

Files that people hand around are hostile at times: links that lead in circles, images of 20 MB
that unpack to gigabytes, damaged files. Each is met here, once.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gp_prune.errors import UserError

_ENDINGS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
"""What a file may hold: no format whose reader starts another program."""
_MOST_PIXELS = 178_956_970
"""Images of more pixels are refused (from this number on Pillow speaks of decompression bombs)."""
_LARGE = 1 << 24
"""Pixels from which an image is made smaller before it becomes floats."""
_STRIP = 1 << 22
"""Pixels of it that become floats at a time."""
_LONGEST = 8
"""Longest side that is read, in lengths of the side that the network sees."""
_16_BITS = 65535
_DARK = 16 / 255
"""Where an image of 16 bits per channel stays below this, its content is in the bits that the
reader of Pillow drops."""
_NO_CLASSES = frozenset({
    "__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information",
})  # fmt: skip
"""Folders that archives, systems and servers make."""

Shape = tuple[int, int, int]


class ImageFolder(NamedTuple):
    """The images of a folder, in order of class and path.

    Attributes:
        paths: the files.
        labels: (n,) number of the class of each: classes are numbered in alphabetical order. None
            where the images have no classes.
    """

    paths: list[str]
    labels: Tensor | None


def find_images(folder: Path, *, labelled: bool = True) -> ImageFolder:
    """Find the images in the folders of classes, at any depth, each file once.

    Links are followed where they lead to images or folders outside, and no image counts twice.
    What is hidden (a name that begins with a dot) or made by a system or an archive (``@eaDir``,
    ``lost+found``, ``__MACOSX``) is no class and no image.

    Args:
        folder: the folder.
        labelled: whether labels are needed. Where they are not, a folder with images directly in
            it gives all the images below it, without labels.

    Raises:
        UserError: there is no class, or a class without images, or the folder cannot be read.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not _is_hidden(entry.name)]
        # A link to itself is no folder.
        classes = sorted(entry.name for entry in entries if os.path.isdir(entry))
        if not labelled and any(_is_image(entry.name) and entry.is_file() for entry in entries):
            return ImageFolder(_Walk(folder, [os.curdir]).images()[0], None)
        found = _Walk(folder, classes).images()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"data folder {str(folder)!r} cannot be read: {error.filename or folder}: {reason}"
        ) from error
    if not any(found):
        raise UserError(
            f"data folder {str(folder)!r} has no images in folders of classes; "
            "it needs one folder per class with images in it; only a reconstruction "
            "(--kind reconstruction) does without classes"
        )
    empty = [name for name, paths in zip(classes, found, strict=True) if not paths]
    if empty:
        raise UserError(
            f"class folder {empty[0]!r} of data folder {str(folder)!r} has no images, yet it would "
            f"take number {classes.index(empty[0])} of the classes; put images "
            f"({', '.join(_ENDINGS[:4])} ...) into it, or remove it"
        )
    labels = [number for number, paths in enumerate(found) for _ in paths]
    return ImageFolder([path for paths in found for path in paths], torch.tensor(labels))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NO_CLASSES


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


_Found = list[tuple[str, str]]
"""Pairs of a folder and a name in it."""


class _Walk:
    """Walk through the folders of classes, through every real folder once."""

    def __init__(self, root: Path, classes: list[str]) -> None:
        self._root = os.path.realpath(root)
        self._classes = {name: os.path.realpath(root / name) for name in classes}
        self._folder = root
        # A link from one class into another one would give its images two labels.
        self._seen = {self._root, *self._classes.values()}
        self._files: set[tuple[int, int] | str] = set()
        first: dict[str, str] = {}
        for name, real in self._classes.items():
            other = first.setdefault(real, name)
            if other != name:
                raise UserError(
                    f"class folders {other!r} and {name!r} of data folder {str(root)!r} are the "
                    "same folder, one by a link; remove the link"
                )

    def images(self) -> list[list[str]]:
        """Return the images of each class, sorted by folder and name.

        What is really inside a class comes before what links bring in from elsewhere.
        """
        gathered = []
        for name, real in self._classes.items():
            images: _Found = []
            links = self._enter(str(self._folder / name), real, images)
            gathered.append((images, links))
        for images, links in gathered:
            self._follow(links, images)
        return [[os.path.join(*image) for image in sorted(images)] for images, _ in gathered]

    def _follow(self, links: _Found, images: _Found) -> None:
        for folder, name in links:  # which grows on the way
            path = os.path.join(folder, name)
            real = os.path.realpath(path)
            if os.path.isdir(path):
                upwards = os.path.join(self._root, "").startswith(os.path.join(real, ""))
                if not upwards and real not in self._seen:
                    self._seen.add(real)
                    links += self._enter(path, real, images)
            elif os.path.isfile(path) and self._is_new(path, real):
                images.append((folder, name))

    def _is_new(self, path: str, real: str) -> bool:
        """Return whether a file was not met before by another name, and remember it."""
        status = os.stat(path)
        key = (status.st_dev, status.st_ino) if status.st_ino else real  # 0: no such numbers
        new = key not in self._files
        self._files.add(key)
        return new

    def _enter(self, folder: str, real: str, images: _Found) -> _Found:
        """Gather images below a folder, whose real path is given; return the links in it."""
        links: _Found = []
        below = [(folder, real)]
        while below:
            folder, real = below.pop()
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not _is_hidden(entry.name)]
            for entry in shown:
                inside, is_image = os.path.join(real, entry.name), _is_image(entry.name)
                if entry.is_symlink():
                    if is_image or os.path.isdir(entry):
                        links.append((folder, entry.name))
                elif entry.is_dir():
                    if inside not in self._seen:
                        self._seen.add(inside)
                        below.append((entry.path, inside))
                elif is_image and entry.is_file() and self._is_new(entry.path, inside):
                    images.append((folder, entry.name))
        return sorted(links)


def read_image(path: str, shape: Shape) -> Tensor:
    """Read an image as numbers from 0 to 1, (channels, height, width), for a network of ``shape``.

    Grey images of 16 bits are divided by 65,535, those of 8 bits by 255. Of colours of 16 bits
    Pillow reads the upper 8 bits; where these hold next to nothing, the image is refused. Grey
    images have one channel, all others red, green and blue; for a network of two or four channels
    grey images with transparency, and RGBA and CMYK images, keep theirs. A large image is made
    smaller first, and a long one cut at both ends, so that memory stays within a few bytes per
    pixel.

    Raises:
        UserError: it cannot be read, is too large, or has no known range of values.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that are bounded here, or odd metadata
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > _MOST_PIXELS:
                    raise UserError(
                        f"image {path!r} has {width:,} x {height:,} pixels, more than "
                        f"{_MOST_PIXELS:,}; make it smaller, or remove it"
                    )
                return _to_tensor(image, shape, path)
    except UserError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise UserError(f"image {path!r} is too large; make it smaller, or remove it") from error
    except Exception as error:  # each format has its own errors for damaged files
        raise UserError(f"image {path!r} cannot be read; remove or replace it") from error


def _to_tensor(image: Any, shape: Shape, path: str) -> Tensor:
    """Turn an open image into a tensor, strip by strip where it is large."""
    mode = _target_mode(image, shape[0], path)
    halved = mode != "I;16" and ";16" in str(image.tile)  # its reader drops the lower 8 bits
    left, top, right, bottom = _visible_part(image.size, shape)
    width, height = right - left, bottom - top
    factor = 1
    if width * height > _LARGE:
        factor = max(1, min(height // shape[1], width // shape[2]) // 4)
    left, top = left + width % factor // 2, top + height % factor // 2
    width, height = width // factor * factor, height // factor * factor
    rows = height if factor == 1 else max(1, _STRIP // width // factor) * factor
    strips = []
    for start in range(top, top + height, rows):
        strip = image.crop((left, start, left + width, min(start + rows, top + height)))
        strips.append(_shrink(_values(strip, mode, path), factor))
    values = np.concatenate(strips, axis=1)
    if halved and values[:3].max() < _DARK:
        raise UserError(
            f"image {path!r} has 16 bits per channel, of which the upper 8 are read, and its "
            f"largest value is {round(255 * float(values[:3].max()))} of 255 there; save it with 8 "
            "bits per channel, scaled to the whole range"
        )
    return torch.from_numpy(values)


def _visible_part(size: tuple[int, int], shape: Shape) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of an image that is worth reading."""
    width, height = size
    most_wide = max(1, _LONGEST * height * shape[2] // shape[1])
    most_high = max(1, _LONGEST * width * shape[1] // shape[2])
    left, top = max(0, width - most_wide) // 2, max(0, height - most_high) // 2
    return left, top, width - left, height - top


def _target_mode(image: Any, channels: int, path: str) -> str:
    """Return the mode of Pillow to convert to; UserError where the range of values is unknown."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return "I;16"
    if mode == "I":
        raise UserError(
            f"image {path!r} holds integers of 32 bits, whose range is not known; save it with 8 "
            "or 16 bits per channel"
        )
    if mode == "F":
        return "F"
    transparent = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if channels == 4 and (transparent or mode == "CMYK"):
        return "CMYK" if mode == "CMYK" else "RGBA"
    if channels == 2 and mode in ("LA", "La"):
        return "LA"
    return "L" if mode in ("1", "L", "LA", "La") else "RGB"


def _values(image: Any, mode: str, path: str) -> NDArray[np.float32]:
    """Return the values of an image, float32 (channels, height, width) from 0 to 1."""
    if mode == "I;16":
        return (np.asarray(image)[None].astype(np.float32)) / np.float32(_16_BITS)
    if mode == "F":
        values = np.asarray(image, dtype=np.float32)[None]
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise UserError(
                f"image {path!r} holds floats from {values.min():g} to {values.max():g}; scale "
                "them to 0 to 1, or save it with 8 or 16 bits per channel"
            )
        return values
    array = np.asarray(image.convert(mode))
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return np.ascontiguousarray(array).astype(np.float32) / np.float32(255)


def _shrink(values: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Average squares of ``factor`` x ``factor`` values, which divides both sides."""
    channels, height, width = values.shape
    squares = values.reshape(channels, height // factor, factor, width // factor, factor)
    return values if factor == 1 else squares.mean((2, 4), dtype=np.float32)
