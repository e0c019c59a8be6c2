from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_prune.apply.data import TuningData
from gp_prune.errors import UserError
from gp_prune.metric.metric import Metric
from gp_prune.pruning import Budget, WeightPlan
from gp_prune.search.scorer import TaskScorer
from gp_prune.tasks import Task, catalogue, check_task_name, is_task_name, is_trained, load_task
from gp_prune.tasks.catalogue import LANGUAGE_TASKS, Recipe
from gp_prune.tasks.language_models import (
    LANGUAGE_MODELS,
    SEQUENCE,
    Attention,
    Block,
    LanguageModel,
    Size,
)
from gp_prune.tasks.texts import MOST_BYTES, TextData, cut, load_text, next_tokens

TINY = Size(width=8, depth=1, heads=4, groups=2, hidden=12)
LINES = "\n\n".join(f"line {n} holds {n * n} and then {n % 7} more words" for n in range(400))


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    file = tmp_path / "notes.txt"
    file.write_text(LINES)
    return file


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "_LANGUAGE_RECIPE", Recipe(1, 1e-3))
    models = {"llama": lambda: LanguageModel(TINY, llama=True)}
    monkeypatch.setattr(catalogue, "LANGUAGE_MODELS", {**LANGUAGE_MODELS, **models})


def build(*, llama: bool = True, length: int = SEQUENCE) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(TINY, llama=llama, length=length).eval()


@pytest.mark.parametrize("llama", [True, False])
def test_no_output_depends_on_a_later_token(llama: bool) -> None:
    model = build(llama=llama)
    tokens = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert before.shape == (2, 20, 256)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def attention_of(model: LanguageModel) -> Attention:
    block = model.layers[0]
    assert isinstance(block, Block)
    return block.attention


def test_rotary_positions_make_attention_depend_on_distances_alone() -> None:
    attention = attention_of(build())
    rotation = build().rotation
    assert rotation is not None
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = attention(x, rotation[:, :6])
        moved = attention(x, rotation[:, 40:46])
        reversed_ = attention(x, rotation[:, :6].flip(1))
    torch.testing.assert_close(first, moved, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first, reversed_, atol=1e-4)


def test_a_group_of_keys_serves_its_heads_in_order() -> None:
    attention = attention_of(build())
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    query, key, value = (
        layer(x).reshape(2, 5, -1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    heads = []
    for head in range(4):
        scores = query[:, :, head] @ key[:, :, head // 2].transpose(1, 2) / math.sqrt(2)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ value[:, :, head // 2])
    expected = attention.o_proj(torch.cat(heads, -1))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-4)


def test_the_names_stand_for_transformers_of_the_sizes_that_are_promised() -> None:
    assert LANGUAGE_TASKS[:2] == ("llama-pydoc", "gpt-pydoc")
    for build_model in LANGUAGE_MODELS.values():
        model = build_model()
        assert 2 <= len(model.layers) <= 4
        assert 64 <= model.embedding.embedding_dim <= 128
        kinds = {type(module) for module in model.modules()}
        assert (nn.RMSNorm in kinds) != (nn.LayerNorm in kinds)


def test_no_sequence_of_one_part_is_in_the_text_of_another() -> None:
    data = load_text()
    parts = {"train": data.train, "validation": data.validation, "test": data.read_test()}
    rows = {
        name: {bytes(row.tolist()) for row in torch.cat([s.inputs, s.target[:, -1:]], 1)}
        for name, s in parts.items()
    }
    total = sum(map(len, rows.values()))
    assert len(rows["train"]) > 0.75 * total
    assert len(rows["validation"]) == len(rows["test"]) == 160
    assert len(set().union(*rows.values())) == total
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    inner = [line for row in rows["test"] for line in row.split(b"\n")[1:-1]]
    assert len(inner) > 300
    assert all(line in text for line in inner)


def test_a_paragraph_that_was_there_before_is_left_out() -> None:
    twice = cut((LINES + "\n\n" + LINES).encode(), "twice")
    once = cut(LINES.encode(), "once")
    assert all(torch.equal(a, b) for a, b in zip(twice, once, strict=True))
    assert (
        TextData("a", LINES.encode()).fingerprint() == TextData("b", LINES.encode()).fingerprint()
    )
    changed = LINES.replace("line 7 ", "line x ").encode()
    assert TextData("a", changed).fingerprint() != TextData("a", LINES.encode()).fingerprint()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("llama-text", "write llama-text:FILE"),
        ("llama-text@1", "write llama-text@1:FILE"),
        ("llama-text@x:notes.txt", "whole number"),
        ("llama-pydocs", "did you mean 'llama-pydoc'"),
        ("llama-pydoc:notes.txt", "unknown task"),
    ],
)
def test_names_that_mean_no_language_model(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_task_name(name)


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_text(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        load_text(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or a device"):
        load_text(str(tmp_path / "pipe"))
    with (tmp_path / "large.txt").open("wb") as large:
        large.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match=r"more than the 64 MB .* of at most 64 MiB"):
        load_text(str(tmp_path / "large.txt"))
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    with pytest.raises(UserError, match="at least 5,160; give a longer text"):
        load_text(str(short)).fingerprint()
    (tmp_path / "same.txt").write_text("the same\n\n" * 9000)
    with pytest.raises(UserError, match="8 bytes of paragraphs that differ"):
        load_text(str(tmp_path / "same.txt")).fingerprint()


@pytest.mark.usefixtures("quick")
def test_a_model_of_a_text_of_ones_own_is_trained_once(tmp_path: Path, text_file: Path) -> None:
    name = f"llama-text@3:{text_file}"
    assert is_task_name(name)
    assert not is_trained(name, cache_dir=tmp_path)
    task = load_task(name, cache_dir=tmp_path)
    assert is_trained(name, cache_dir=tmp_path)
    again = load_task(name, cache_dir=tmp_path)
    for key, value in task.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    other = load_task(f"llama-text@4:{text_file}", cache_dir=tmp_path)
    assert not torch.equal(*(t.model.state_dict()["embedding.weight"] for t in (other, task)))
    assert (task.kind, task.whole) == ("language", ("head",))
    assert task.dense_error == again.dense_error


def untrained(**changes: object) -> Task:
    data = TextData("lines", LINES.encode())
    given = {"kind": "language", "whole": ["head"], **changes}
    return Task(build(), data.train, data.validation, data.read_test, **given)  # type: ignore[arg-type]


def test_the_error_is_the_cross_entropy_per_byte() -> None:
    task = untrained()
    validation = task.validation
    with torch.no_grad():
        logits = task.model(validation.inputs).double().log_softmax(-1)
    picked = logits.gather(-1, validation.target.unsqueeze(-1))
    assert task.dense_error == pytest.approx(-float(picked.mean()), rel=1e-6)
    loss = task.loss(task.model(validation.inputs), validation.target)
    assert float(loss.detach()) == pytest.approx(task.dense_error, rel=1e-5)
    counts = task.train.target.flatten().bincount(minlength=256).double().clamp_min(0.5)
    guess = -(counts / counts.sum()).log()[validation.target].mean()
    assert task.trivial_error == pytest.approx(float(guess), rel=1e-6)
    assert "at chance level" in task.remarks[0]


def test_whole_sequences_are_inputs_and_what_follows() -> None:
    tokens = torch.randint(0, 256, (60, 17), generator=torch.Generator().manual_seed(1))
    task = Task(build(length=16), tokens, kind="language")
    for split in (task.train, task.validation, task.test()):
        assert split.inputs.shape[1:] == (16,)
        assert torch.equal(split.inputs[:, 1:], split.target[:, :-1])
    assert torch.equal(next_tokens(tokens).target, tokens[:, 1:])


def test_an_error_of_the_users_sees_batches_that_suit_the_memory() -> None:
    """The outputs of a language model are larger than its inputs by its number of tokens."""
    seen = []

    def wrong(output: Tensor, target: Tensor) -> Tensor:
        seen.append(target.numel())
        return (output.argmax(-1) != target).double().mean()

    tokens = torch.randint(0, 256, (150, 33), generator=torch.Generator().manual_seed(1))
    task = Task(build(length=32), tokens, kind="language", error=wrong, samples=None)
    seen.clear()
    error = task.error(task.model, task.train)
    assert max(seen) <= 2048 < sum(seen) == task.train.target.numel()
    data = TuningData("", task.train, task.train, task.test, "test", "own", task.loss, task)
    seen.clear()
    assert data.evaluate(task.model, task.train).error == pytest.approx(error)
    assert max(seen) <= 2048 < sum(seen) == task.train.target.numel()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (torch.rand(30, 9), "takes tokens, whole numbers"),
        (torch.zeros(30, 1, dtype=torch.int64), "one token, so there is none to predict"),
        ((torch.ones(30, 4).long(), torch.rand(30, 4)), "is not whole numbers"),
        (torch.arange(270).reshape(30, 9) + 200, "give the tokens of its own tokenizer"),
        (
            (torch.arange(120).reshape(30, 4), torch.full((30, 4), 256)),
            "outputs for 256 tokens",
        ),
    ],
)
def test_data_that_is_no_text(data: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Task(build(), data, kind="language")


def test_a_layer_that_stays_whole_is_not_ranked() -> None:
    task = untrained()
    scorer = TaskScorer(task, 4, 0)
    metric = Metric.load("wanda_weight")
    cut_ = scorer.plan(metric.expression, metric.conventions, Budget("params", 0.5))
    assert isinstance(cut_.plan, WeightPlan)
    assert "head" not in cut_.plan.kept
    assert len(cut_.plan.kept) == 7
    assert cut_.params == pytest.approx(0.5, abs=0.02)
    free = TaskScorer(untrained(whole=[]), 4, 0)
    plan = free.plan(metric.expression, metric.conventions, Budget("params", 0.5)).plan
    assert isinstance(plan, WeightPlan)
    assert "head" in plan.kept


def test_fine_tuning_lowers_the_error_of_a_copy() -> None:
    task = untrained()
    model = copy.deepcopy(task.model)
    task.fine_tune(model, steps=5, batch_size=16)
    assert task.error(model, task.validation) < task.dense_error


@pytest.mark.slow
def test_the_built_in_networks_know_the_language(task_cache: Path) -> None:
    task = load_task("llama-pydoc", cache_dir=task_cache)
    assert task.dense_error < 0.6 * task.trivial_error
    assert task.error(task.model, task.test()) < 0.6 * task.trivial_error
    with torch.no_grad():
        logits = task.model(task.validation.inputs[:8])
    loss = functional.cross_entropy(logits.flatten(0, 1), task.validation.target[:8].flatten())
    assert float(loss) < 0.7 * task.trivial_error
