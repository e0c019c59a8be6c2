"""Metric files: exact round trips, strict reading, one sentence for each refusal."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from gp_prune.errors import UserError
from gp_prune.language.axes import CHANNEL, WEIGHT
from gp_prune.language.expression import Expression, ExpressionError
from gp_prune.language.interpreter import evaluate
from gp_prune.language.parser import ParseError
from gp_prune.language.primitive import builtin_primitives, primitive_set
from gp_prune.language.record import LayerRecord, MissingMeasurement, synthetic_layer
from gp_prune.metric.file import Conventions
from gp_prune.metric.metric import Metric, MetricError, bundled_metrics, probe

Trees = Callable[..., list[Expression]]
NAMES = sorted(bundled_metrics())


@pytest.mark.parametrize("name", NAMES)
def test_bundled_metrics_round_trip(name: str, tmp_path: Path) -> None:
    metric = Metric.load(name)
    assert metric.name == name
    path = tmp_path / "copy.json"
    metric.save(path)
    assert json.loads(path.read_text("utf-8")) == json.loads(bundled_metrics()[name].read_text())
    again = Metric.load(path)
    assert again == metric
    assert again.digest == metric.digest
    assert torch.equal(again.scores(synthetic_layer()), metric.scores(synthetic_layer()))


@pytest.mark.parametrize("name", NAMES)
def test_bundled_scores_are_still_those_of_the_file(name: str) -> None:
    metric = Metric.load(name)
    assert metric.probe_scores == pytest.approx(probe(metric.expression), rel=1e-9)
    assert metric.description
    assert metric.source


@pytest.mark.parametrize("name", NAMES)
def test_torch_is_a_plain_function_of_the_scores(name: str) -> None:
    metric = Metric.load(name)
    function = metric.torch()
    for layer in (synthetic_layer(), synthetic_layer(5)):
        assert function(layer).equal(metric.scores(layer))


@pytest.mark.many(12, 60)
@pytest.mark.parametrize("axes", [CHANNEL, WEIGHT], ids=str)
def test_random_metrics_round_trip(
    axes: Any, random_trees: Trees, tmp_path: Path, many: int
) -> None:
    path = tmp_path / "metric.json"
    for number, tree in enumerate(random_trees(axes, many, seed=91, most=7)):
        conventions = Conventions(("layer", "global")[number % 2], "sum", "first")
        metric = Metric(
            f"random-{number}",
            tree,
            conventions,
            description="any tree, größer ∑",
            source="this test",
            invariances=("scale", "permutation")[: number % 3],
            objectives={"lenet": {"error": 0.1, "macs": 0.5}},
            provenance={"seed": 3, "versions": ["torch 2", None]},
        )
        if not all(map(torch.isfinite, evaluate(tree, synthetic_layer()).flatten())):
            continue
        metric.save(path)
        again = Metric.load(path)
        assert again == metric
        assert again.latex() == metric.latex()
        assert again.scores(synthetic_layer()).equal(metric.scores(synthetic_layer()))


def test_digest_is_of_the_meaning() -> None:
    metric = Metric.parse("sum[i,k](abs(W))", name="a")
    same = dataclasses.replace(metric, name="b", description="c", invariances=("scale",))
    assert same.digest == metric.digest
    others = [
        Metric.parse("sum[k,i](abs(W))", conventions=Conventions("layer")),
        Metric.parse("sum[k,i](abs(G))"),
        Metric.parse("mean[k,i](abs(W))"),
    ]
    assert len({metric.digest, *(other.digest for other in others)}) == 4
    assert Metric.parse(" sum [k,i]( abs(W))").digest == metric.digest


def test_properties() -> None:
    metric = Metric.parse("mul(mean[n,s](A), Ggamma)", name="a")
    assert metric.granularity == "channel"
    assert Metric.parse("abs(W)").granularity == "weight"
    assert metric.needs == {"outputs", "gradients"}
    assert str(metric.canonical().expression) == "mul(Ggamma, mean[n,s](A))"
    assert str(metric.sympy()) == "Ggamma[o]*Sum(A[o, n, s], (n, 1, N_n), (s, 1, N_s))/(N_n*N_s)"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../a", "a.json", "-_-", "a\n", "<b>"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(MetricError, match="is not valid; use letters, digits, '_' and '-'"):
        Metric.parse("b", name=name)


@pytest.mark.parametrize("text", ["Xn", "sum[k](W)", "A"])
def test_wrong_axes(text: str) -> None:
    with pytest.raises(MetricError, match=r"has axes \{.*\}; a metric has axes \{o\} \(channels\)"):
        Metric.parse(text)


def test_wrong_text() -> None:
    with pytest.raises(ParseError, match="unknown operand 'w'"):
        Metric.parse("abs(w)")


def content(name: str = "l1") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(bundled_metrics()[name].read_text(encoding="utf-8"))
    return loaded


def changed(**fields: Any) -> str:
    return json.dumps({**content(), **fields})


def without(field: str) -> str:
    return json.dumps({name: value for name, value in content().items() if name != field})


def unpacked(text: str) -> dict[str, Any]:
    """The fields of a metric that a text and its tree fit, whatever its axes are."""
    from gp_prune.language.parser import parse

    tree = parse(text, builtin_primitives())
    return {"text": str(tree), "expression": tree.to_json()}


FULL = changed()
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "is not valid JSON .*; it may be cut off"),
    "half": (FULL[: len(FULL) // 2], "is not valid JSON .*; it may be cut off"),
    "one brace too few": (FULL[:-1], "is not valid JSON .*; it may be cut off"),
    "trailing text": (FULL + "x", "is not valid JSON"),
    "not a number": (FULL.replace("11.669873761396323", "NaN"), "NaN is not a number of JSON"),
    "infinite": (FULL.replace("11.669873761396323", "-Infinity"), "-Infinity is not a number"),
    "nested": ("[" * 100_000, "is not valid JSON"),
    "nested objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "is not valid JSON"),
    "long number": ("1" * 10_000, "is not valid JSON"),
    "a list": ("[]", "the metric must be an object, not "),
    "a number": ("1", "the metric must be an object, not "),
    "null": ("null", "the metric must be an object, not "),
    "no fields": ("{}", "schema_version is None, not 1"),
    "newer schema": (
        changed(schema_version=2),
        "it has schema version 2, newer than 1; update gp-prune",
    ),
    "older schema": (changed(schema_version=0), "schema_version is 0, not 1"),
    "schema as text": (changed(schema_version="1"), "schema_version is '1', not 1"),
    "schema as truth": (changed(schema_version=True), "schema_version is True, not 1"),
    "schema as float": (changed(schema_version=1.0), "schema_version is 1.0, not 1"),
    "unknown field": (
        changed(code="import os"),
        "the metric has an unknown field 'code'; remove it",
    ),
    "wrong type": (changed(expression="abs(W)"), "field 'expression' .* must be an object"),
    "name as list": (changed(name=["l1"]), "field 'name' .* must be a text"),
    "hostile name": (changed(name="../../etc/passwd"), "metric name '../../etc/passwd' is not"),
    "hostile description": (
        changed(description="\x1b[2Jgone"),
        "the description of metric 'l1' is not one line of printable text",
    ),
    "half a character": (changed(source="\ud800"), "the source of metric 'l1' is not one line of"),
    "unknown operator": (
        changed(expression={"operator": "cube", "arguments": [{"operand": "b"}]}),
        r"unknown operator 'cube' \(.*added with --primitives FILE.py\), at \$",
    ),
    "unknown operand": (
        changed(expression={"operand": "Hessian"}),
        r"unknown operand 'Hessian' \(.*--primitives FILE.py\), at \$",
    ),
    "hostile operand": (
        changed(expression={"operand": "__import__('os').system('true')"}),
        "unknown operand",
    ),
    "huge constant": (
        changed(expression={"constant": 10**400}),
        "constant inf is not a finite number",
    ),
    "tree with other axes": (
        changed(**unpacked("sum[k](W)")),
        r"has axes \{o,i\}; a metric has axes \{o\} \(channels\), \{o,i,k\} \(weights\) or "
        r"\{\} \(shares of layers\)",
    ),
    "tree that is not valid": (
        changed(expression={"operator": "sum", "over": "n", "arguments": [{"operand": "W"}]}),
        r"operator 'sum\[n\]' does not accept axes \{o,i,k\}, at \$",
    ),
    "other granularity": (
        changed(granularity="weight"),
        r"it says granularity 'weight' but its tree has axes \{o\}",
    ),
    "changed text": (
        changed(text="sum[i,k](W)"),
        r"its text 'sum\[i,k\]\(W\)' is not its tree 'sum\[i,k\]\(abs\(W\)\)'",
    ),
    "changed tree": (changed(**unpacked("l2[i,k](W)")), "its digest does not fit its content"),
    "changed conventions": (
        changed(conventions=Conventions("global", "sum", "max").to_json()),
        "its digest does not fit its content, so it was changed after it was saved; get",
    ),
    "changed digest": (changed(digest="sha256:" + "0" * 64), "its digest does not fit"),
    "wrong conventions": (
        changed(conventions={"scope": "world", "normaliser": "none", "join": "mean"}),
        "scope is 'world'; it must be one of layer, global",
    ),
    "conventions with more": (
        changed(conventions={**Conventions().to_json(), "x": 1}),
        "'conventions' has an unknown field 'x'; remove it",
    ),
    "unknown invariance": (
        changed(invariances=["rotation"]),
        "invariance 'rotation' is unknown; use permutation, scale",
    ),
    "invariance as number": (changed(invariances=[1]), "invariance 1 is unknown; use"),
    "invariance twice": (changed(invariances=["scale"] * 2), "invariance 'scale' is named twice"),
    "scores as text": (changed(probe_scores=["1", "2"]), "probe_scores are not all numbers"),
    "scores as truths": (changed(probe_scores=[True]), "probe_scores are not all numbers"),
    "huge score": (changed(probe_scores=[10**400]), "probe_scores are not all finite numbers"),
    **{
        f"no {field}": (without(field), f"the metric has no field '{field}'; add it")
        for field in content()
        if field != "schema_version"
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    path = tmp_path / "metric.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MetricError) as caught:
        Metric.load(path)
    sentence = str(caught.value)
    assert re.search(message, sentence), sentence
    assert str(path) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 600


@pytest.mark.parametrize("bytes_", [b"\xff\xfe{}", b"\x80"])
def test_files_that_are_not_text(bytes_: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metric.json"
    path.write_bytes(bytes_)
    with pytest.raises(MetricError, match="cannot be read: it is not a text file"):
        Metric.load(path)


def test_metrics_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"unknown metric 'wandaa'; did you mean 'wanda'\?"):
        Metric.load("wandaa")
    with pytest.raises(MetricError, match="unknown metric 'xyzzy'; 'gp-prune list' shows the bund"):
        Metric.load("xyzzy")
    with pytest.raises(MetricError, match=r"none\.json' cannot be read: No such file or directory"):
        Metric.load(tmp_path / "none.json")
    with pytest.raises(MetricError, match="cannot be read: Is a directory"):
        Metric.load(tmp_path)
    for text in ("a" * 1000, "a\0b", "a\0b.json", "runs/best", "-", "l1/W"):
        with pytest.raises(MetricError, match=r"unknown metric|cannot be read"):
            Metric.load(text)


def test_a_formula_is_loaded_where_a_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = (
        "sum[i,k](abs(W) * G)^2 / (b + 1e-4)",
        "gamma",
        "beta/gamma",
        "-b",
        "W",
        "abs( gamma )",
    )
    for text in texts:
        metric = Metric.load(text)
        assert metric.expression == Metric.parse(text).expression
        assert metric == Metric.load(str(metric.expression)), "the name follows from the tree"
    assert len({Metric.load(text).name for text in texts}) == len(texts)
    with pytest.raises(ParseError, match=r"did you mean 'gamma'.*at position 6"):
        Metric.load("beta+(gama)")
    with pytest.raises(MetricError, match=r"a metric has axes \{o\}"):
        Metric.load("sum[k](W)")
    Metric.load("l2").save(tmp_path / "gamma")
    assert Metric.load("gamma").name == "l2", "a file goes first"
    Metric.load("l2").save(tmp_path / "a+b")
    assert Metric.load("a+b").name == "l2"


def test_changed_scores_are_refused_at_the_first_scoring(tmp_path: Path) -> None:
    path = tmp_path / "metric.json"
    scores = content()["probe_scores"]
    for wrong in (scores[:-1], [*scores[:-1], scores[-1] * 1.00001], [1e400, *scores[1:]]):
        text = changed(probe_scores=wrong).replace("Infinity", "1e400")
        path.write_text(text, encoding="utf-8")
        metric = Metric.load(path)
        assert metric.latex() == content()["latex"]
        with pytest.raises(MetricError, match="scores the synthetic layer otherwise than its file"):
            metric.scores(synthetic_layer())
        with pytest.raises(MetricError, match="scores the synthetic layer otherwise than its file"):
            metric.torch()
    path.write_text(changed(probe_scores=[s * (1 + 1e-9) for s in scores]), encoding="utf-8")
    Metric.load(path).scores(synthetic_layer())


CUBE = """
from gp_prune.language.primitive import Elementwise, operator

@operator("cube", shape=Elementwise(1), meaning="x^3", symbol=lambda x: {symbol})
def cube(x):
    return {compute}
"""


def test_primitives_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CUBE.format(symbol="x**3", compute="x * x * x"), encoding="utf-8")
    metric = Metric.parse("cube(b)", name="mine", primitives=primitive_set(file))
    metric.save(tmp_path / "mine.json")
    with pytest.raises(MetricError, match=r"unknown operator 'cube'.*--primitives FILE\.py"):
        Metric.load(tmp_path / "mine.json")
    assert Metric.load(tmp_path / "mine.json", primitive_set(file)) == metric
    file.write_text(CUBE.format(symbol="2*x**3", compute="2 * x * x * x"), encoding="utf-8")
    other = Metric.load(tmp_path / "mine.json", primitive_set(file))
    with pytest.raises(MetricError, match="its primitives have changed, use the version or --prim"):
        other.scores(synthetic_layer())


def test_scores_that_are_not_finite_cannot_be_saved(tmp_path: Path) -> None:
    metric = Metric.parse("mul(square(exp(mul(b, 1e6))), 1e300)", name="huge")
    with pytest.raises(MetricError, match="scores on the synthetic layer that are not finite, so"):
        metric.save(tmp_path / "huge.json")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metric.json"
    Metric.load("l1").save(path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        Metric.load("l2").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metric.json"]


def test_a_missing_measurement_is_named() -> None:
    full = synthetic_layer()
    bare = LayerRecord("conv1", full.weight, full.bias, False, full.gamma, full.beta)
    with pytest.raises(MissingMeasurement, match="layer 'conv1' has no measurement 'activation'"):
        Metric.load("apoz").scores(bare)


def test_errors_are_user_errors() -> None:
    for kind in (MetricError, ParseError, ExpressionError, MissingMeasurement):
        assert issubclass(kind, UserError)


def test_loading_and_printing_need_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "l1.json"
    Metric.load("l1").save(path)
    code = (
        "import sys\n"
        "from gp_prune import Metric\n"
        "for name in sys.argv[1:]:\n"
        "    metric = Metric.load(name)\n"
        "    print(metric.latex(), metric.needs, metric.canonical().digest)\n"
        "    metric.simplified().mathml()\n"
        "    Metric.from_sympy(metric.sympy())\n"
        "loaded = {'torch', 'torchvision', 'sklearn', 'deap'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    command = [sys.executable, "-c", code, str(path), *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == len(NAMES) + 1


def test_scope_row_is_for_metrics_of_weights() -> None:
    row = Conventions("row", "none", "mean")
    metric = Metric.parse("mul(abs(W), Xn)", conventions=row)
    assert Metric.from_text(json.dumps(metric.to_json()), "here").conventions == row
    with pytest.raises(UserError, match="scope 'row' ranks the weights within an output channel"):
        Metric.parse("sum[i,k](abs(W))", conventions=row)


def test_metrics_of_papers_that_rank_within_output_rows() -> None:
    row_metrics = {
        name for name in bundled_metrics() if Metric.load(name).conventions.scope == "row"
    }
    assert row_metrics == {"flap_weight", "pruner_zero_weight", "wanda_weight"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Metric.parse(cast("Any", 5)), "a formula is a text .*, not of type int"),
        (lambda: Metric.parse(cast("Any", None)), "not of type NoneType"),
        (lambda: Metric.parse(cast("Any", b"W")), "not of type bytes"),
        (lambda: Metric.parse("W", name=cast("Any", 5)), "a metric has a str where this one has"),
        (
            lambda: Metric.parse("W", conventions=cast("Any", "layer")),
            "a metric has a Conventions where this one has the str 'layer'",
        ),
        (lambda: Metric.load(cast("Any", 5)), "the metric is 5; give the name of a bundled one"),
        (lambda: Metric.load(""), "the metric is ''; give the name of a bundled one"),
        (lambda: Metric.load(" "), "the metric is ' '; give the name"),
    ],
)
def test_values_of_a_wrong_type_are_refused(make: Callable[[], Metric], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()
