"""``list``, ``show`` and ``latex``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.formula.line_breaking import displayed
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import INVARIANCES, Metric, bundled_metrics

Run = Callable[..., Result]
README = Path(__file__).resolve().parents[2] / "evolved_metrics" / "README.md"


def test_list_names_every_metric(run: Run) -> None:
    result = run("list")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines() if line[0] != " "]
    assert names == ["metric", *bundled_metrics()]
    assert all(len(line) <= 120 for line in result.stdout.splitlines())


def test_list_json(run: Run) -> None:
    listed = json.loads(run("list", "--json").stdout)["metrics"]
    assert [entry["name"] for entry in listed] == list(bundled_metrics())
    for entry in listed:
        metric = Metric.load(entry["name"])
        assert entry["text"] == str(metric.expression)
        assert entry["latex"] == metric.latex()
        assert entry["needs"] == sorted(metric.needs)
        assert entry["invariances"] == list(metric.invariances)


def test_list_vocabulary(run: Run) -> None:
    known = builtin_primitives()
    for option, names in (("operands", known.operands), ("operators", known.operators)):
        listed = json.loads(run("list", f"--{option}", "--json").stdout)[option]
        listed_names = [re.split(r"\W", next(iter(entry.values())))[0] for entry in listed]
        assert listed_names == list(names)
        text = run("list", f"--{option}").stdout
        assert all(name in text for name in names)


def test_list_of_own_primitives(run: Run) -> None:
    file = README.parents[1] / "examples" / "own_primitive.py"
    listed = json.loads(run("list", "--primitives", str(file), "--json").stdout)
    assert [entry["operand"] for entry in listed["operands"]] == ["D"]
    operators = [entry["operator"] for entry in listed["operators"]]
    assert operators == [
        "erf(x)",
        "hard_tanh(x)",
        "median[axes](x)",
        "soft_rank[axes](x)",
        "softsign(x)",
    ]
    text = run("list", "--primitives", str(file)).stdout
    assert "softsign" in text
    assert "sum" not in text
    missing = run("list", "--primitives", "missing.py")
    assert missing.exit_code == 2
    assert "does not exist" in missing.stderr


def test_readme_of_the_metrics_is_current(run: Run) -> None:
    """Write it again with: gp-prune list --markdown > evolved_metrics/README.md."""
    assert run("list", "--markdown").stdout == README.read_text(encoding="utf-8")


def test_markdown_survives_github(run: Run) -> None:
    rows = [line for line in run("list", "--markdown").stdout.splitlines() if line[:3] == "| `"]
    assert len(rows) == len(bundled_metrics())
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 9
        (formula,) = re.findall(r"\$(.*?)\$", row)
        assert "|" not in formula
        assert not re.search(r"\\[^A-Za-z]", formula)


def test_options_that_exclude_each_other(run: Run) -> None:
    for options in (["--operands", "--operators"], ["--markdown", "--json"]):
        result = run("list", *options)
        assert result.exit_code == 2
        assert "give one of" in result.stderr


def test_show(run: Run) -> None:
    result = run("show", "taylor_bn")
    assert result.exit_code == 0
    metric = Metric.load("taylor_bn")
    flat = " ".join(result.stdout.split())
    for word in (str(metric.expression), metric.latex(), NEEDS["fisher"], metric.digest):
        assert word in flat
    facts = json.loads(run("show", "taylor_bn", "--json").stdout)
    assert facts["digest"] == metric.digest
    assert facts["size"] == metric.expression.size
    assert facts["needs"] == {"fisher": NEEDS["fisher"]}
    assert facts["passes"] == "one pass, forward and backward"
    assert facts["invariances"] == {name: INVARIANCES[name] for name in ("permutation", "scale")}
    assert facts["conventions"] == metric.conventions.to_json()


def test_show_says_that_there_are_no_needs_and_no_invariances(run: Run, tmp_path: Path) -> None:
    Metric("mine", Metric.load("l1").expression).save(tmp_path / "mine.json")
    text = run("show", tmp_path / "mine.json").stdout
    assert re.search(r"needs +weights only: no data", text)
    assert re.search(r"passes +no data", text)
    assert re.search(r"invariances +none: nothing is declared", text)


def test_show_objectives_of_an_evolved_metric(run: Run, tmp_path: Path) -> None:
    metric = Metric(
        "mine",
        Metric.load("l1").expression,
        objectives={"lenet-digits": {"error": 0.1}},
        provenance={"seed": 3, "run": "runs/001"},
    )
    metric.save(tmp_path / "mine.json")
    text = run("show", tmp_path / "mine.json").stdout
    assert re.search(r'objectives +lenet-digits: \{"error": 0.1\}', text)
    assert re.search(r"provenance +seed: 3\n +run: runs/001", text)


def test_latex_of_one_metric_is_the_formula_alone(run: Run) -> None:
    assert run("latex", "l1").stdout == Metric.load("l1").latex() + "\n"


def test_a_formula_stands_in_place_of_a_name(run: Run) -> None:
    assert run("latex", "sum[i,k](abs(W))").stdout == run("latex", "l1").stdout
    assert run("latex", "--infix", "mul(b, add(b, gamma))").stdout == "b * (b + gamma)\n"
    assert run("latex", "--text", "b * (b + gamma)").stdout == "mul(b, add(b, gamma))\n"
    assert "infix        b * (b + gamma)" in run("show", "b * (b + gamma)").stdout


def test_other_forms_of_a_formula(run: Run) -> None:
    assert run("latex", "--mathml", "l1").stdout.startswith("<math")
    assert run("latex", "--sympy", "l1").stdout == f"{Metric.load('l1').sympy()}\n"
    assert run("latex", "--infix", "l1", "taylor_weight").stdout.startswith(
        "# l1\nsum[i,k](abs(W))\n# "
    )
    assert run("latex", "--mathml", "l1", "l2").stdout.startswith("<!-- l1 -->\n<math")


def test_latex_of_several_metrics(run: Run) -> None:
    lines = run("latex", "l1", "l2").stdout.splitlines()
    assert lines == ["% l1", Metric.load("l1").latex(), "% l2", Metric.load("l2").latex()]


@pytest.mark.parametrize("name", list(bundled_metrics()))
def test_standalone_document_is_balanced(run: Run, name: str) -> None:
    text = run("latex", "--standalone", name).stdout
    assert text.startswith(r"\documentclass")
    assert text.endswith("\\end{document}\n")
    metric = Metric.load(name)
    index = ",".join(metric.expression.axes)
    assert displayed(rf"\mathrm{{score}}_{{{index}}} = {metric.latex()}") in text
    bare = re.sub(r"\\[{}$\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert text.count(r"\[ ") == text.count(r" \]")
    assert len(re.findall(r"\\left(?![a-z])", text)) == len(re.findall(r"\\right(?![a-z])", text))


def test_standalone_defines_what_it_uses(run: Run) -> None:
    lamp = run("latex", "--standalone", "lamp").stdout
    assert r"\frac{a}{b}_{\!\epsilon} = " in lamp
    assert "$W$: weights" in lamp
    assert r"\frac{a}{b}" not in run("latex", "--standalone", "l1").stdout


def test_latex_simplified(run: Run, tmp_path: Path) -> None:
    Metric.parse("neg(neg(sum[i](sum[k](abs(W)))))", name="long").save(tmp_path / "long.json")
    simple = Metric.load("l1").latex() + "\n"
    assert run("latex", tmp_path / "long.json").stdout == simple  # sympy joins these anyway
    Metric.parse("sqrt(square(div(b, gamma)))", name="root").save(tmp_path / "root.json")
    simplified = run("latex", "--simplify", tmp_path / "root.json").stdout
    assert simplified == Metric.parse("abs(div(b, gamma))").latex() + "\n"


def test_latex_table(run: Run) -> None:
    table = run("latex", "--table", "l1", "l2").stdout
    assert table.count(r"\texttt") == 2
    assert r"\documentclass" not in table
    whole = run("latex", "--table", "--standalone", "l1", "l2").stdout
    assert table in whole
    assert whole.startswith(r"\documentclass")
    assert "$W$: weights" in whole


def test_show_the_simplified_formula_where_it_differs(run: Run, tmp_path: Path) -> None:
    assert re.search(r"simplified +l1\[i,k\]\(W\)", run("show", "l1").stdout)
    assert "simplified" not in run("show", "l2").stdout
    facts = json.loads(run("show", "l1", "--json").stdout)
    assert facts["simplified"] == "l1[i,k](W)"


@pytest.mark.parametrize("command", ["show", "latex"])
def test_unknown_metric(run: Run, command: str) -> None:
    result = run(command, "taylor_bm")
    assert result.exit_code == 2
    assert "did you mean 'taylor_bn'" in result.stderr
    assert result.stderr.count("\n") == 1
