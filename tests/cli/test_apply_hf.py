"""Networks of transformers from a local folder: read, pruned, written and read again."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from gp_prune import prune
from gp_prune._compat import import_torchvision
from gp_prune.apply import hf_models
from gp_prune.apply.hf_models import available_memory, load_hf
from gp_prune.errors import UserError
from gp_prune.statistics import Batch

with contextlib.suppress(UserError):
    import_torchvision()  # transformers imports it
transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

Run = Callable[..., Result]
WORDS = 40


def llama(**changes: Any) -> Any:
    sizes = dict(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


BUILDERS = {"llama": llama, "gpt2": gpt2, "bert": bert, "vit": vit}
HEADS = {
    "llama": {"lm_head"}, "gpt2": {"lm_head"},
    "bert": {"cls.predictions.transform.dense", "cls.predictions.decoder"},
    "vit": {"classifier", "vit.embeddings.patch_embeddings.projection"},
}  # fmt: skip


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of the network that the test is parametrised with."""
    torch.manual_seed(0)
    path: Path = tmp_path / request.param
    BUILDERS[request.param]().save_pretrained(path)
    return path


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "llama"
    llama().save_pretrained(path)
    return path


def outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(inputs).logits
    return logits


def linear_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights (out, in) of the layers that multiply by a matrix."""
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weights[name] = module.weight.detach().flatten(1)
        elif type(module).__name__ == "Conv1D":
            weights[name] = module.weight.detach().T
    return weights


@pytest.mark.parametrize("folder", BUILDERS, indirect=True)
def test_a_folder_is_read_as_it_is(folder: Path) -> None:
    loaded = load_hf(str(folder))
    again = type(loaded.model).from_pretrained(folder)  # type: ignore[attr-defined]
    torch.testing.assert_close(
        outputs(loaded.model, loaded.example_inputs), outputs(again, loaded.example_inputs)
    )
    assert set(loaded.whole) == HEADS[folder.name]
    assert loaded.causal == (folder.name in ("llama", "gpt2"))


@pytest.mark.parametrize("folder", BUILDERS, indirect=True)
def test_what_is_written_is_read_by_from_pretrained(
    folder: Path, tokens: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outputs are those of the network in memory, and two of every four weights are zero."""
    kept: dict[str, Any] = {}

    def keep(model: nn.Module, *rest: Any) -> None:
        kept["model"] = model
        real(model, *rest)

    real = hf_models.save_hf
    monkeypatch.setattr("gp_prune.cli.apply_run.save_hf", keep)
    data = () if folder.name == "vit" else ("--data", tokens)
    metric = "magnitude" if folder.name == "vit" else "wanda_weight"
    out = tmp_path / "out"
    result = run(
        "apply",
        metric,
        f"hf:{folder}",
        *data,
        "--pattern",
        "2:4",
        "--out",
        out,
        "--json",
        "--quiet",
    )
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    before = load_hf(str(folder))
    again = type(before.model).from_pretrained(out)  # type: ignore[attr-defined]
    inputs = before.example_inputs
    torch.testing.assert_close(outputs(again, inputs), outputs(kept["model"], inputs))
    assert not torch.allclose(outputs(again, inputs), outputs(before.model, inputs))
    dense, pruned = linear_weights(before.model), linear_weights(again)
    assert dense.keys() == pruned.keys()
    for name, weight in pruned.items():
        if name in HEADS[folder.name]:
            assert torch.equal(weight, dense[name])
            continue
        assert bool(((weight == 0).reshape(-1, 4).sum(1) == 2).all()), name
        left = weight != 0
        assert torch.equal(weight[left], dense[name][left])
    report = json.loads((out / "gp_prune.json").read_text())
    assert report["plan_digest"] == json.loads(result.stdout)["plan_digest"]
    if folder.name in ("llama", "gpt2"):
        quality = report["quality"]
        assert quality["perplexity"]["pruned"] == pytest.approx(math.exp(quality["pruned"]))


@pytest.mark.parametrize("folder", ["llama", "gpt2", "bert"], indirect=True)
def test_block_after_block_the_weights_are_not_copied(
    folder: Path, tokens: Path, run: Run, tmp_path: Path, chains: list[bool]
) -> None:
    """The blocks run by themselves, and what is written is what a copy would be pruned to."""
    out = tmp_path / "out"
    options = ("--pruning-ratio", 0.5, "--data", tokens, "--sequential", "--out", out)
    result = run("apply", "wanda_weight", f"hf:{folder}", *options, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert chains == [True]
    report = json.loads(result.stdout)
    assert report["sequential"] is True
    before = load_hf(str(folder))
    causal = before.causal
    rows = torch.from_numpy(np.load(tokens))
    rows = rows.reshape(-1, 17) if causal else rows[: len(rows) // 16 * 16].reshape(-1, 16)
    places = torch.arange(len(rows)) % 10
    read = rows[(places != 3) & (places != 8), :-1] if causal else rows
    pruned = prune(
        before.model, "wanda_weight", before.example_inputs, data=[Batch(read)],
        pruning_ratio=0.5, sequential=True, ignore=before.whole,
    )  # fmt: skip
    assert report["plan_digest"] == pruned.plan.digest()
    again = type(before.model).from_pretrained(out)  # type: ignore[attr-defined]
    inputs = before.example_inputs
    torch.testing.assert_close(outputs(again, inputs), outputs(pruned.model, inputs))
    if not causal:
        return
    for state, model in (("dense", before.model), ("pruned", again)):
        logits = outputs(model, rows[places == 8, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[places == 8, 1:].flatten())
        assert report["quality"][state] == pytest.approx(float(loss), rel=1e-5)


def test_the_perplexity_is_that_of_the_test_sequences(
    llama_folder: Path, tokens: Path, run: Run
) -> None:
    result = run("apply", "magnitude", f"hf:{llama_folder}", "--data", tokens, "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    rows = torch.from_numpy(np.load(tokens)).reshape(-1, 17)
    test = rows[torch.arange(len(rows)) % 10 == 8]
    logits = outputs(load_hf(str(llama_folder)).model, test[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), test[:, 1:].flatten())
    quality = json.loads(result.stdout)["quality"]
    assert quality["dense"] == pytest.approx(float(loss), rel=1e-5)
    assert quality["samples"] == len(test) == 6


def test_tied_weights_count_once_and_stay_whole(tmp_path: Path, tokens: Path, run: Run) -> None:
    torch.manual_seed(0)
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    result = run(
        "apply", "magnitude", f"hf:{tmp_path / 'tied'}", "--with-head", "--json", "--quiet",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert int((again.lm_head.weight == 0).sum()) == 0
    report = json.loads(result.stdout)
    layers = [w for n, w in linear_weights(again).items() if n != "lm_head"]
    total = sum(w.numel() for w in layers)
    assert sum(int((w != 0).sum()) for w in layers) == total / 2
    assert report["before"]["params"] == sum(p.numel() for p in again.parameters())


def write_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: number for number, word in enumerate(["?", *map(str, range(WORDS - 1))])}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)


def test_a_text_is_read_with_the_tokenizer_of_the_folder(
    llama_folder: Path, tmp_path: Path, run: Run
) -> None:
    write_tokenizer(llama_folder)
    text = tmp_path / "text.txt"
    numbers = np.random.default_rng(1).integers(0, WORDS - 1, 17 * 50)
    text.write_text(" ".join(map(str, numbers)))
    out = tmp_path / "out"
    arguments = ("apply", "pruner_zero_weight", f"hf:{llama_folder}", "--json", "--quiet")
    result = run(*arguments, "--data", text, "--out", out)
    assert result.exit_code == 0, result.stderr
    np.save(tmp_path / "same.npy", numbers + 1)
    same = run(*arguments, "--data", tmp_path / "same.npy")
    assert json.loads(result.stdout)["plan_digest"] == json.loads(same.stdout)["plan_digest"]
    assert (out / "tokenizer.json").read_bytes() == (llama_folder / "tokenizer.json").read_bytes()


def change(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    facts = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**facts, **fields}))


def test_folders_and_texts_that_cannot_be_used(
    llama_folder: Path, tokens: Path, tmp_path: Path, run: Run
) -> None:
    def refused(says: str, *arguments: Any, model: Path = llama_folder) -> None:
        result = run("apply", "wanda_weight", f"hf:{model}", *arguments, "--quiet")
        assert result.exit_code == 2
        assert says in result.stderr
        assert result.stderr.count("\n") == 1

    refused("has no config.json that can be read", "--data", tokens, model=tmp_path / "none")
    text = tmp_path / "text.txt"
    text.write_text("1 2 3")
    refused("has no tokenizer, which a text needs", "--data", text)
    write_tokenizer(llama_folder)
    refused("at least 40 are needed", "--data", text)
    text.write_text(" \n")
    refused("is empty", "--data", text)
    refused("cannot be read", "--data", tmp_path / "missing.txt")
    change(llama_folder, "tokenizer_config.json", auto_map={"AutoTokenizer": "own.Own"})
    text.write_text("1 2 3")
    refused("brings Python code of its own", "--data", text)
    np.save(tmp_path / "large.npy", np.full(17 * 60, WORDS))
    refused("the network has 40", "--data", tmp_path / "large.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, {}]), allow_pickle=True)
    refused("cannot be read", "--data", tmp_path / "objects.npy")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    refused("exists and is not empty", "--data", tokens, "--out", tmp_path / "full")
    result = run("apply", "l1", f"hf:{llama_folder}", "--quiet")
    assert "takes metrics of single weights" in result.stderr
    change(llama_folder, "config.json", auto_map={"AutoModel": "own.Own"})
    (llama_folder / "own.py").write_text("raise SystemExit('it ran')")
    refused("brings Python code of its own (auto_map), which is never run", "--data", tokens)


def test_folders_whose_weights_are_not_read(
    llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = available_memory()
    assert left is None or left > 2**20
    with monkeypatch.context() as patch:
        patch.setattr(hf_models, "available_memory", lambda: 1000)
        with pytest.raises(UserError, match=r"need .* of memory, and .* are left"):
            load_hf(str(llama_folder))
    change(llama_folder, "config.json", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"has no weights for 'model\.layers\.2"):
        load_hf(str(llama_folder))
    change(llama_folder, "config.json", architectures=["OwnModel"])
    with pytest.raises(UserError, match="names the architecture 'OwnModel'"):
        load_hf(str(llama_folder))
    (llama_folder / "model.safetensors").rename(llama_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no weights as safetensors"):
        load_hf(str(llama_folder))
