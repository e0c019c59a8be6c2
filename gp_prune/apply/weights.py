"""Get the weights that torchvision and timm publish for their networks."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from gp_prune.errors import UserError, first_line, root_cause

DEFAULT = "DEFAULT"
"""The weights that torchvision or timm recommends for its network."""
_PLAIN = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_LONGEST = 160
_TIMEOUT_S = 10
_HUB = "https://huggingface.co/"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@contextmanager
def loading_pretrained(name: str, source: str) -> Iterator[None]:
    """Turn what goes wrong while a package loads its weights into one sentence.

    Files in the cache are read as plain tensors, never unpickled.

    Args:
        name: the network.
        source: address of the weights.
    """
    before = os.environ.get(_PLAIN)
    os.environ[_PLAIN] = "1"
    try:
        yield
    except Exception as error:  # of the connection, the cache, the file or the network
        cause = root_cause(error)
        reason = first_line(cause)[:_LONGEST]
        cached = Path(torch.hub.get_dir()) / "checkpoints" / source.rpartition("/")[2]
        if cached.is_file():
            raise UserError(
                f"the pretrained weights of {name!r} in {str(cached)!r} are damaged or of another "
                f"network ({reason}); remove the file, so that it is fetched again"
            ) from error
        raise UserError(
            f"the pretrained weights of {name!r} are not in the cache and cannot be downloaded "
            f"from {source} ({type(cause).__name__}: {reason}); download them where there is a "
            "connection, and give the file with --weights"
        ) from error
    finally:
        if before is None:
            del os.environ[_PLAIN]
        else:
            os.environ[_PLAIN] = before


@contextmanager
def quick_hub(source: str) -> Iterator[None]:
    """Let Hugging Face's library ask no server for weights that are in the cache.

    Without a connection it tries for most of a minute, also for what it has; a server that cannot
    be reached is met here at once.

    Args:
        source: address of the weights; one elsewhere is left alone.

    Raises:
        OSError: the weights are not in the cache, and the server cannot be reached.
    """
    if not source.startswith(_HUB):
        yield
        return
    from huggingface_hub import constants, try_to_load_from_cache

    offline = constants.HF_HUB_OFFLINE
    repository = source.removeprefix(_HUB)
    files = (try_to_load_from_cache(repository, name) for name in _HUB_FILES)
    if any(isinstance(file, str) for file in files):
        constants.HF_HUB_OFFLINE = True
    elif not offline and "HF_ENDPOINT" not in os.environ:
        with suppress(urllib.error.HTTPError):  # an answer, whatever it says
            request = urllib.request.Request(source, method="HEAD")
            urllib.request.urlopen(request, timeout=_TIMEOUT_S).close()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
