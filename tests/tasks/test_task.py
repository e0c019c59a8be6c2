from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from gp_prune.errors import UserError
from gp_prune.tasks import Split, Task, splits
from gp_prune.tasks.measures import default_loss, default_measure, mean_error
from gp_prune.tasks.models import Kind


def task(kind: Kind, train: Any, judged: Any = None, **options: Any) -> Task:
    return Task(network(kind), train, judged, judged, name="mine", kind=kind, **options)


def network(kind: Kind, outputs: int = 3) -> nn.Module:
    """An untrained network of images of 4 x 4."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "reconstruction":
            steps = (nn.Linear(16, 8), nn.Linear(8, 16), nn.Unflatten(1, (1, 4, 4)))
            return nn.Sequential(nn.Flatten(), *steps)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, outputs))


def error(kind: Kind, model: nn.Module, split: Split) -> float:
    return mean_error(model, split, default_measure(kind), kind)


def trivial_error(kind: Kind, train: Split, judged: Split) -> float:
    return task(kind, train, judged).trivial_error_on(judged)


class Constant(nn.Module):
    """Gives the same output for every sample."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), *self.output.shape)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def labelled(labels: list[int]) -> Split:
    """A split, of which a task checks neither number nor overlap."""
    target = torch.tensor(labels)
    return Split(images(len(labels)), target, target)


def test_the_error_of_a_classification_is_the_share_of_wrong_classes() -> None:
    labels = [0, 1, 1, 2] * 700  # 2800 samples: three evaluation batches, the last one smaller
    split = labelled(labels)
    model = Constant(torch.tensor([0.1, 0.7, 0.2]))
    assert error("classification", model, split) == 0.5


def test_the_error_of_a_reconstruction_is_the_mean_square_over_all_pixels() -> None:
    inputs = images(2300)
    split = Split(inputs, inputs, torch.zeros(2300, dtype=torch.long))
    model = Constant(torch.full((1, 4, 4), 0.25))
    expected = float((inputs.double() - 0.25).square().mean())
    assert error("reconstruction", model, split) == pytest.approx(expected, rel=1e-6)


def test_outputs_that_are_not_finite_make_an_error_that_is_not_finite() -> None:
    inputs = images(3)
    split = Split(inputs, inputs, torch.zeros(3, dtype=torch.long))
    broken = Constant(torch.full((1, 4, 4), math.nan))
    assert math.isnan(error("reconstruction", broken, split))


def test_the_model_comes_back_in_its_own_mode_and_was_judged_in_evaluation_mode() -> None:
    split = labelled([0, 1])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2), nn.Dropout(0.9))
    model[2].eval()
    statistics = model.get_buffer("2.running_mean").clone()
    flags = [module.training for module in model.modules()]
    assert error("classification", model, split) == error("classification", model, split)
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(model.get_buffer("2.running_mean"), statistics)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_losses_are_those_of_their_definition() -> None:
    output = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([1, 0])
    log_share = output.exp() / output.exp().sum(1, keepdim=True)
    expected = -(log_share[0, 1].log() + log_share[1, 0].log()) / 2
    torch.testing.assert_close(default_loss("classification")(output, target), expected)
    first, second = images(3), images(3, seed=1)
    torch.testing.assert_close(
        default_loss("reconstruction")(first, second),
        (first - second).pow(2).sum() / 48,
    )


def test_the_trivial_error_is_that_of_the_best_prediction_without_inputs() -> None:
    train, judged = labelled([2, 2, 1, 0] * 5), labelled([2, 0, 1, 1, 1])
    assert trivial_error("classification", train, judged) == pytest.approx(4 / 5)
    labels = torch.zeros(20, dtype=torch.long)
    first, second = images(20), images(20, seed=1)
    expected = error("reconstruction", Constant(first.mean(0)), Split(second, second, labels))
    found = trivial_error(
        "reconstruction", Split(first, first, labels), Split(second, second, labels)
    )
    assert found == pytest.approx(expected, rel=1e-5)


Samples = tuple[Tensor, Tensor]


def made_up(count: int, seed: int = 0) -> Samples:
    return images(count, seed), torch.arange(count) % 3


def rows(split: Split) -> set[tuple[float, ...]]:
    return set(map(tuple, split.inputs.flatten(1).tolist()))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images one by one, in no memory that torch knows."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples[0])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.samples[0][index], int(self.samples[1][index])


def test_every_form_of_data_gives_the_same_task() -> None:
    samples = made_up(90)
    data = TensorDataset(*samples)
    arrays = (samples[0].double().numpy(), samples[1].numpy())
    forms = [samples, data, DataLoader(data, 7), Subset(data, range(90)), Pictures(samples), arrays]
    first, *others = (task("classification", form) for form in forms)
    assert [len(first.train), len(first.validation), len(first.test())] == [54, 18, 18]
    assert all(other.digest == first.digest for other in others)
    assert all(other.dense_error == first.dense_error for other in others)
    assert task("classification", samples, seed=1).digest != first.digest


def test_missing_parts_are_drawn_apart_with_every_class_in_its_share() -> None:
    samples = made_up(90)
    mine = task("classification", samples)
    parts = [mine.train, mine.validation, mine.test()]
    assert rows(parts[0]) | rows(parts[1]) | rows(parts[2]) == rows(Split(*samples))
    assert sum(len(rows(part)) for part in parts) == 90
    assert all(len(set(part.target.bincount().tolist())) == 1 for part in parts)
    judged = made_up(30, seed=1)
    mine = Task(network("classification"), samples, judged)
    assert rows(mine.validation) == rows(Split(*judged))
    assert (len(mine.train), len(mine.test())) == (72, 18)
    assert mine.name == "Sequential"


@pytest.mark.parametrize("labelled", [True, False])
def test_a_folder_of_images_is_read(tmp_path: Path, labelled: bool) -> None:
    colours = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    for number, colour in enumerate(colours.mul(255).to(torch.uint8).tolist()):
        folder = tmp_path / f"class{number % 2}" if labelled else tmp_path
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), tuple(colour)).save(folder / f"{number}.png")
    example = torch.zeros(1, 1, 4, 4)
    kind: Kind = "classification" if labelled else "reconstruction"
    mine = Task(network(kind, 2), tmp_path, kind=kind, example_inputs=example)
    assert mine.train.inputs.shape == (24, 1, 4, 4)
    if labelled:
        assert mine.train.labels is not None
        assert mine.train.labels.bincount().tolist() == [12, 12]
        return
    assert mine.train.labels is None
    with pytest.raises(UserError, match="no images in folders of classes"):
        Task(network("classification", 2), tmp_path, example_inputs=example)
    with pytest.raises(UserError, match="give example_inputs, such as"):
        Task(network(kind), tmp_path, kind=kind)


def test_a_regression_needs_numbers_of_the_shape_of_the_output() -> None:
    inputs = images(50)
    target = inputs.flatten(1).mean(1, keepdim=True).double()
    mine = Task(network("regression", 1), (inputs, target), kind="regression")
    assert mine.train.target.dtype == torch.float32
    assert mine.train.labels is None
    mean = mine.train.target.double().mean()
    expected = float((mine.validation.target.double() - mean).square().mean())
    assert mine.trivial_error == pytest.approx(expected)
    with pytest.raises(UserError, match=r"shape \(16, 1\) on the .* \(16,\); give target.unsq"):
        Task(network("regression", 1), (inputs, target[:, 0]), kind="regression")


def test_an_error_of_the_user_is_measured_for_the_guess_too() -> None:
    def missed(output: Tensor, target: Tensor) -> Tensor:
        return output.argmax(1).ne(target).double().mean()

    inputs, labels = images(90), torch.arange(90) % 9 % 4 % 3
    usual = task("classification", (inputs, labels))
    mine = task("classification", (inputs, labels), error=missed)
    assert mine.own_error and not usual.own_error
    assert mine.dense_error == pytest.approx(usual.dense_error)
    assert mine.trivial_error == pytest.approx(usual.trivial_error)

    def worst(output: Tensor, target: Tensor) -> float:
        return float((output - target).abs().max())

    numbers = inputs.flatten(1).mean(1, keepdim=True)
    model = network("regression", 1)
    mine = Task(model, (inputs, numbers), kind="regression", error=worst)
    mean = mine.train.target.mean()
    assert mine.trivial_error == pytest.approx(float((mine.validation.target - mean).abs().max()))


ODD = torch.full((30, 1, 4, 4), 0.5)
WRONG: list[tuple[str, Kind, Any, dict[str, Any], str]] = [
    ("few", "classification", made_up(19), {}, "has 19 samples; a task needs at least 20"),
    ("none", "classification", TensorDataset(*made_up(0)), {}, "has no samples"),
    ("nan", "classification", (images(30) / 0, made_up(30)[1]), {}, "finite, in 18 samples of 18"),
    ("no labels", "classification", images(30), {}, "has no labels; give \\(inputs, labels"),
    ("floats", "classification", (images(30), images(30)[:, 0, 0, 0]), {}, "type torch.float32"),
    ("one class", "classification", (images(30), torch.ones(30).long()), {}, "one class alone, 1"),
    ("range", "classification", (images(30), torch.arange(30)), {}, "the network .* has 3 outputs"),
    ("negative", "classification", (images(30), made_up(30)[1] - 1), {}, "from -1 to 1"),
    ("lengths", "classification", (images(30), made_up(25)[1]), {}, "has 30 samples, but"),
    ("fails", "classification", (images(30)[..., :3], made_up(30)[1]), {}, "on its training data"),
    ("target", "regression", images(30), {}, "has no target"),
    ("shape", "regression", (images(30), images(30)), {}, "targets of the shape of the output"),
    ("same", "reconstruction", ODD, {}, "all samples of the training data are the same"),
    ("kind", "clustering", made_up(30), {}, "the kind of a task is 'clustering'"),  # type: ignore[list-item]
    ("keep", "classification", made_up(30), {"keep": ["l"]}, "no layer 'l' to keep"),
    ("loss", "classification", made_up(30), {"loss": "mse"}, "the loss is the text 'mse'"),
    ("error", "classification", made_up(30), {"error": lambda output, target: output}, "one numb"),
    ("folder", "regression", "digits", {}, "have no numbers to predict"),
    ("missing", "classification", "nowhere",
     {"example_inputs": torch.zeros(1, 1, 4, 4)}, "no folder has that name"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "options", "message"), [w[1:] for w in WRONG],
                         ids=[w[0] for w in WRONG])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(
    kind: Kind, data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        task(kind, data, **options)
    assert "\n" not in str(caught.value)


def test_what_is_odd_is_a_remark() -> None:
    inputs, labels = made_up(90)
    (remark,) = task("classification", (inputs, labels)).remarks
    assert "is at chance level" in remark
    model = network("classification", 5)
    good = model(inputs).argmax(1)
    (remark,) = Task(model, (inputs, good), kind="classification").remarks
    assert remark.startswith(f"The network has 5 outputs and the data {len(good.unique())} classes")
    some = (torch.cat([inputs[:3], images(30, seed=1)]), labels[:33])
    first, _ = Task(network("classification"), (inputs, labels), some).remarks
    assert first.startswith("3 samples of the validation data are in the training data, too")
    with pytest.raises(UserError, match="every sample of the validation data is in the training"):
        Task(network("classification"), (inputs, labels), (inputs[:20], labels[:20]))


WRONG_TESTS: list[tuple[str, Kind, Any, Any, str]] = [
    ("width", "classification", images(30, 1)[..., :3], torch.arange(30) % 3,
     "fails on its (test|validation) data, inputs of shape"),
    ("labels", "classification", images(30, 1), 7 + torch.arange(30) % 3,
     "the labels of the (test|validation) data go from 7 to 9"),
    ("shape", "regression", images(30, 1), torch.arange(30.0),
     r"shape \(16, 1\) on the (test|validation) data, the target \(16,\)"),
]  # fmt: skip


@pytest.mark.parametrize("part", ["validation", "test", "function"])
@pytest.mark.parametrize(("kind", "inputs", "target", "message"), [w[1:] for w in WRONG_TESTS],
                         ids=[w[0] for w in WRONG_TESTS])  # fmt: skip
def test_validation_and_test_data_that_do_not_fit_are_refused_at_once(
    part: str, kind: Kind, inputs: Tensor, target: Tensor, message: str
) -> None:
    train: Any = made_up(90) if kind == "classification" else (images(90), images(90)[:, 0, 0, :1])
    model = network(kind, 3 if kind == "classification" else 1)
    wrong = (lambda: (inputs, target)) if part == "function" else (inputs, target)
    name = "validation" if part == "validation" else "test"
    with pytest.raises(UserError, match=message.replace("(test|validation)", name)):
        if name == "validation":
            Task(model, train, wrong, kind=kind)
        else:
            Task(model, train, test=wrong, kind=kind)


def test_a_function_may_give_the_test_data_in_any_form() -> None:
    samples = made_up(30, seed=1)
    given = Task(network("classification"), made_up(90), test=samples)
    read = Task(network("classification"), made_up(90), test=lambda: samples)
    assert read.digest == given.digest


def test_data_that_repeats_samples_may_be_drawn_from() -> None:
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).repeat(13, 1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    first, second, *_ = Task(model, (every, every[:, 0].long())).remarks
    assert "samples of the validation data are in the training data, since the data rep" in first
    assert "samples of the test data are in the training or validation data, since" in second
    with pytest.raises(UserError, match="every sample of the test data is in the training"):
        Task(model, (every, every[:, 0].long()), test=(every[:30], every[:30, 0].long()))


def test_samples_of_a_data_loader_are_drawn_from_all_of_it() -> None:
    inputs = images(300)
    inputs[:, 0, 0, 0] = torch.arange(300)
    data = TensorDataset(inputs, torch.arange(300) // 100)
    mine = task("classification", DataLoader(data, 7), samples=60)
    numbers = torch.cat([p.inputs[:, 0, 0, 0] for p in (mine.train, mine.validation, mine.test())])
    assert len(set(numbers.tolist())) == 60
    assert set(mine.train.target.tolist()) == {0, 1, 2}
    again, other = (task("classification", DataLoader(data, 7), samples=60, seed=s) for s in (0, 1))
    assert mine.digest == again.digest != other.digest


def test_a_data_loader_that_shuffles_gives_the_same_task_again() -> None:
    data = TensorDataset(*made_up(90))
    first, second = (task("classification", DataLoader(data, 7, shuffle=True)) for _ in range(2))
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": images(30)}, "networks of one input tensor"),
        (images(30).tolist(), "are a list; give"),
    ],
)
def test_a_pair_is_not_taken_for_batches(inputs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        task("classification", (inputs, made_up(30)[1]))


def test_whole_numbers_get_a_remedy_and_few_samples_a_remark() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    whole = (images(30) * 255).to(torch.uint8)
    with pytest.raises(UserError, match=r"such as images\.float\(\) / 255"):
        Task(model, (whole, made_up(30)[1]))
    one = (images(1, 1), torch.tensor([1]))
    assert any(
        remark.startswith("The validation data has 1 sample, so")
        for remark in Task(model, made_up(90), one).remarks
    )


def test_data_that_does_not_fit_is_refused_or_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = made_up(90)
    monkeypatch.setattr(splits, "MOST_BYTES", 50 * 4 * 17)
    for form in (Pictures(samples), DataLoader(TensorDataset(*samples), 7)):
        with pytest.raises(UserError, match="since every worker holds it; give a smaller part"):
            task("classification", form)
        mine = task("classification", form, samples=30)
        assert len(mine.train) + len(mine.validation) + len(mine.test()) == 30


def test_a_task_shows_itself_in_a_notebook() -> None:
    split = labelled([0, 1] * 30)
    shown = task("classification", split, split)
    page = shown._repr_html_()
    assert f"<td style='text-align:left'>{len(split)}</td>" in page and "classification" in page
    shown.remarks = ("<b>odd</b>",)
    assert "<b>" not in shown._repr_html_() and "&lt;b&gt;odd" in shown._repr_html_()
    assert len(repr(shown)) < 200
