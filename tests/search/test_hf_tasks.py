"""Networks of transformers from a local folder, in searches and judgements."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_folders import all_files

from gp_prune import evaluate, evolve, prune
from gp_prune._compat import import_torchvision
from gp_prune.apply.hf_models import load_hf
from gp_prune.apply.own_task import TaskOptions, full_name, load_named_task, short_name
from gp_prune.errors import UserError
from gp_prune.judging.compare import compare
from gp_prune.runs.jobs import network_digest
from gp_prune.search.config import SearchConfig

with contextlib.suppress(UserError):
    import_torchvision()  # transformers imports it
transformers: Any = pytest.importorskip("transformers", reason="transformers is not installed")

WORDS = 40
TINY = SearchConfig(
    granularity="weight", population=4, generations=0, seed=5, ladder=(0.5,), budgets=(0.5,),
    final_steps=1, final_seeds=1, front_size=2, size_limit=15, height_limit=5, calibration=16,
    no_start_formulas=True, exclude=("gradients",),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    path = tmp_path / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def named(folder: Path, tokens: Path) -> SearchConfig:
    return replace(TINY, tasks=(f"hf:{folder}",), data=str(tokens))


def test_a_folder_has_one_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert full_name("hf:llama") == f"hf:{folder}" == full_name(f"hf:{folder}")
    assert short_name(f"hf:{folder}") == "hf:llama"


def test_the_task_of_a_folder_is_to_predict_its_text(folder: Path, tokens: Path) -> None:
    task = load_named_task(f"hf:{folder}", TaskOptions(data=str(tokens)))
    assert (task.kind, task.whole) == ("language", ("lm_head",))
    rows = torch.from_numpy(np.load(tokens)).reshape(-1, 17)
    places = torch.arange(60) % 10
    assert torch.equal(task.validation.inputs, rows[places == 3, :-1])
    assert torch.equal(task.test().target, rows[places == 8, 1:])
    few = load_named_task(f"hf:{folder}", TaskOptions(data=str(tokens), most=21))
    assert (len(few.train), len(few.validation)) == (21, 6)


@pytest.mark.slow
def test_a_search_runs_and_is_resumed_on_the_same_network_alone(
    folder: Path, tokens: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = named(folder, tokens)
    result = evolve(config, run)
    assert result.recommended.candidate is not None and result.kinds == {f"hf:{folder}": "language"}
    assert "hf:llama" in (run / "metrics" / f"{result.recommended.name}.json").read_text()
    again = evolve(None, run, resume=True)
    assert again.recommended.name == result.recommended.name
    np.save(tokens, np.load(tokens)[::-1].copy())
    with pytest.raises(UserError, match=r"the data of task 'hf:.*' changed"):
        evolve(None, run, resume=True, changes={"generations": 1})
    np.save(tokens, np.load(tokens)[::-1].copy())
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"the network of task 'hf:.*' changed"):
        evolve(None, run, resume=True, changes={"generations": 1})


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(folder: Path, tokens: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        evolve(named(folder, tokens), tmp_path / str(workers) / "run", workers=workers)
    assert all_files(tmp_path / "1" / "run") == all_files(tmp_path / "2" / "run")


@pytest.mark.slow
def test_metrics_are_compared_and_judged_on_a_folder(
    folder: Path, tokens: Path, tmp_path: Path
) -> None:
    name, data = f"hf:{folder}", str(tokens)
    result = compare(
        ["wanda_weight"], [name], tmp_path / "run", data=data, keep=(0.5,), pattern=("2:4",),
        allocation=("own",), calibration=16,
    )  # fmt: skip
    judged = evaluate("wanda_weight", [name], data=data, keep=(0.5,), calibration=16)
    (entry,) = (e for e in result.part("own") if e.metric == "wanda_weight")
    assert judged.errors[0].raw_error == pytest.approx(entry.raw_error)
    task = load_named_task(name, TaskOptions(data=data))
    pruned = prune(
        task.model, "wanda_weight", task.example_inputs, ignore=task.whole, keep_params=0.5,
        data=task.batches(task.train.select(slice(16)), 16),
    )  # fmt: skip
    assert entry.raw_error == pytest.approx(task.error(pruned.model, task.validation))


def test_a_network_in_half_precision_has_a_digest(folder: Path) -> None:
    model = load_hf(str(folder)).model
    half = network_digest(model.bfloat16())
    assert half != network_digest(model.float()) and half.startswith("sha256:")


def bert(tmp_path: Path) -> Path:
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_what_a_folder_cannot_do_is_one_sentence(
    folder: Path, tokens: Path, tmp_path: Path
) -> None:
    name, data = f"hf:{folder}", str(tokens)
    with pytest.raises(UserError, match="metrics of channels remove channels; take metrics of"):
        SearchConfig(tasks=(name,), data=data)
    with pytest.raises(UserError, match="metrics of channels remove channels"):
        compare(["l1"], [name], tmp_path / "run", data=data)
    with pytest.raises(UserError, match="metrics of channels remove channels"):
        evaluate("l1", [name], data=data)
    with pytest.raises(UserError, match="brings no data to try formulas on; name a text file"):
        evaluate("magnitude", [name])
    with pytest.raises(UserError, match="predicts the tokens of --data, and the kind"):
        evaluate("magnitude", [name], data=data, kind="classification")
    with pytest.raises(UserError, match="does not predict the next token"):
        evaluate("magnitude", [f"hf:{bert(tmp_path)}"], data=data)
    with pytest.raises(UserError, match="names no folder; write hf:FOLDER"):
        evaluate("magnitude", ["hf:"], data=data)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"has no config.json that can be read"):
        evaluate("magnitude", [name], data=data)
