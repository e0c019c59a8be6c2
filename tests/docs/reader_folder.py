"""Make the files that the pages name, as a reader would have them, only smaller."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from pages import ROOT, blocks
from PIL import Image
from torch import Tensor, nn

from gp_prune._compat import TorchvisionWarning, import_torchvision

CLASSES = 4
WORDS = 40

PACKAGE = """
from torch import nn


class SmallResNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.inside = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)
        )

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.inside(x))


def small_autoencoder():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1),
    )
"""
AUTOENCODER = """

def build_autoencoder():
    from my_package import small_autoencoder

    model = small_autoencoder()
    model.load_state_dict(torch.load("autoencoder.pt"))
    return model, torch.zeros(1, 3, 32, 32)
"""


class Caches(NamedTuple):
    """Folders with trained networks of tasks.

    Attributes:
        full: trained as they are.
        brief: language models after a few steps, in place of minutes.
    """

    full: Path
    brief: Path

    def of(self, words: list[str]) -> Path:
        """Return the folder for a command."""
        return self.brief if any("pydoc" in word for word in words) else self.full


def fill(folder: Path, caches: Caches) -> None:
    """Write everything into an empty folder."""
    torch.manual_seed(0)
    _language_models(caches.brief)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        images = _images()
        for name in ("images", "my_images"):
            _write(Path(name), images)
        _write(Path("faces"), [images[0]])
        _networks(torch.from_numpy(np.stack(images)).movedim(-1, -3) / 255)
        _transformers()
        words = np.random.default_rng(0).integers(0, WORDS - 1, 17 * 50)
        Path("text.txt").write_text(" ".join(map(str, words)))
        run_command(
            ["evolve", "--tasks", "lenet-digits", *SMALL_SEARCH, "--out", "runs/001"], caches
        )
        sys.modules.pop("my_package", None)


SMALL_SEARCH = [
    "--population", "4", "--generations", "1", "--no-start-formulas", "--no-comparison",
    "--calibration", "64",
]  # fmt: skip


def run_command(words: list[str], caches: Caches) -> Result:
    """Run a command in this process and return its result, which is a success."""
    from gp_prune.cli import main

    name, *rest = words
    if name in ("apply", "compare", "evaluate", "evolve", "genetic"):
        rest += ["--cache-dir", str(caches.of(rest))] if _takes_cache(name, rest) else []
    if name in ("compare", "evolve", "genetic", "autoencode"):
        rest += ["--workers", "1"]
    result = CliRunner().invoke(main, [name, *rest])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def _takes_cache(name: str, words: list[str]) -> bool:
    """Tell whether networks of tasks may be used; `apply` refuses a cache for others."""
    from gp_prune.tasks import is_task_name

    return name != "apply" or is_task_name(words[1])


def _images() -> list[np.ndarray[Any, Any]]:
    """Return (samples, 32, 32, 3) for each class: noise with a brighter quarter."""
    random = np.random.default_rng(0)
    images = random.integers(0, 120, (CLASSES, 30, 32, 32, 3))
    for number in range(CLASSES):
        row, column = divmod(number, 2)
        images[number, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 100
    return [np.clip(part, 0, 255).astype(np.uint8) for part in images]


def _write(folder: Path, images: list[np.ndarray[Any, Any]]) -> None:
    for number, part in enumerate(images):
        place = folder / f"class{number}" if len(images) > 1 else folder
        place.mkdir(parents=True)
        for index, image in enumerate(part):
            Image.fromarray(image).save(place / f"{index:02d}.png")


def _networks(images: Tensor) -> None:
    """Write ``my_model.py``, as the page on own networks shows it, and its trained weights."""
    (page,) = blocks(ROOT / "docs" / "own_network.md", "py")
    Path("my_model.py").write_text(page.text + AUTOENCODER)
    Path("my_package.py").write_text(PACKAGE)
    inputs = images.flatten(0, 1)
    labels = torch.arange(CLASSES).repeat_interleave(images.shape[1])
    names: dict[str, Any] = {}
    exec(PACKAGE, names)
    classifier = names["SmallResNet"](CLASSES)
    _train(classifier, inputs, labels, nn.functional.cross_entropy)
    torch.save(classifier.state_dict(), "small_resnet.pt")
    autoencoder = names["small_autoencoder"]()
    _train(autoencoder, inputs[:30], inputs[:30], nn.functional.mse_loss)
    torch.save(autoencoder.state_dict(), "autoencoder.pt")


def _train(model: nn.Module, inputs: Tensor, target: Tensor, loss: Any) -> None:
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(40):
        optimiser.zero_grad()
        loss(model(inputs), target).backward()
        optimiser.step()
    model.eval()


def _language_models(cache: Path) -> None:
    """Train the language models of tasks for a moment, which is enough to prune them."""
    from gp_prune.tasks import catalogue, load_task

    with mock.patch.object(catalogue, "_MOST_LANGUAGE_STEPS", 30):
        for name in ("llama-pydoc", "gpt-pydoc"):
            load_task(name, cache_dir=cache)


def _transformers() -> None:
    """Write a Llama with its tokenizer, and a vision transformer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TorchvisionWarning)
        import_torchvision()  # transformers imports it
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    llama = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(llama).save_pretrained("my_llama")
    vocabulary = {word: number for number, word in enumerate(["?", *map(str, range(WORDS - 1))])}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained("my_llama")
    vit = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(vit).save_pretrained("my_vit")
