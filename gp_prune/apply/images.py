"""Images of a known data set or a folder, brought to what a loaded network takes."""

from __future__ import annotations

from pathlib import Path

from gp_prune.apply.models import LoadedModel
from gp_prune.tasks import images
from gp_prune.tasks.images import Images, image_shape


def open_images(
    loaded: LoadedModel,
    source: str,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
) -> Images:
    """Open images and bring them to what a network takes, as ``calibration`` says.

    Raises:
        UserError: the source is unknown, empty or unreadable, or does not fit the network; the
            last two also when an image is read.
    """
    return images.open_images(
        source,
        image_shape(loaded.example_inputs, loaded.name),
        imagenet=loaded.imagenet,
        repeats=loaded.reconstructs,
        data_root=data_root,
        download=download,
    )
