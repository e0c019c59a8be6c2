"""``list``, ``show`` and ``latex``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from gp_prune.formula.latex import print_latex
from gp_prune.formula.line_breaking import displayed
from gp_prune.language import symbols
from gp_prune.language.primitive import builtin_primitives
from gp_prune.language.record import NEEDS
from gp_prune.metric.metric import INVARIANCES, Metric, bundled_metrics
from gp_prune.report import stored_facts
from gp_prune.tasks import TASK_NAMES

Run = Callable[..., Result]
README = Path(__file__).resolve().parents[2] / "evolved_metrics" / "README.md"
FACTS = README.with_name("facts.json")


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


def test_stored_facts_are_current(run: Run) -> None:
    """Write them again with: gp-prune list --facts > evolved_metrics/facts.json."""
    assert run("list", "--facts").stdout == FACTS.read_text(encoding="utf-8")
    for name in bundled_metrics():
        assert Metric.load(name).changed_primitives() == ()  # a warning is not stored


def test_facts_are_computed_where_what_is_stored_is_missing_or_old(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = [run(*command.split()).stdout for command in ("show flap", "list", "list --json")]
    assert stored_facts.read_stored_facts() is not None
    monkeypatch.setattr(stored_facts, "digest_content", lambda: "sha256:another")
    assert stored_facts.read_stored_facts() is None
    computed = [run(*command.split()).stdout for command in ("show flap", "list", "list --json")]
    assert computed == stored
    monkeypatch.setattr(stored_facts, "FILE", "missing.json")
    assert stored_facts.read_stored_facts() is None


def test_the_digest_of_the_content_changes_with_a_metric(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, files = stored_facts.digest_content(), bundled_metrics()
    changed = tmp_path / "l1.json"
    changed.write_bytes(files["l1"].read_bytes() + b" ")
    monkeypatch.setattr(stored_facts, "bundled_metrics", lambda: {**files, "l1": changed})
    assert stored_facts.digest_content() != before


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
    for page in ("--markdown", "--html", "--facts"):
        result = run("list", page, "--primitives", "missing.py")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "leave out --primitives" in result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--mathml --legend", "--mathml and --legend exclude each other; give one of them"),
        ("--plain --text --infix", "--plain and --text and --infix exclude each other"),
        ("--plain --table", "leave out --standalone and --table"),
        ("--digits 5 --text", "--text rounds no constants; leave out --digits"),
        ("--digits 3 --bibtex", "--bibtex rounds no constants; leave out --digits"),
        ("--simplify --bibtex", "leave out --simplify"),
    ],
)
def test_forms_that_exclude_each_other(run: Run, options: str, sentence: str) -> None:
    result = run("latex", *options.split(), "l1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in " ".join(result.stderr.split())


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


def test_show_in_words(run: Run) -> None:
    facts = json.loads(run("show", "taylor_2017", "--json").stdout)
    assert facts["words"] == "For every channel: x1, divided by the l2 norm over channels of x1."
    assert facts["where"]["x1"].startswith("For every channel: the mean over samples of the magni")
    assert list(facts["reads"]) == ["dZ", "Z"]
    assert facts["unit"] == "none"
    text = " ".join(run("show", "taylor_2017").stdout.split())
    for words in (facts["words"], facts["where"]["x1"], *facts["reads"].values(), *facts["notes"]):
        assert words in text


@pytest.mark.slow
def test_show_explain_tests_invariances(run: Run) -> None:
    facts = json.loads(run("show", "nisp", "--explain", "--json").stdout)
    assert [text.partition(":")[0] for text in facts["tested"].values()] == ["holds"] * 4


@pytest.mark.slow
def test_show_explains_what_a_formula_ranks_like(run: Run) -> None:
    formula = "l1[i,k](W) + 0.001 * abs(b)"
    facts = json.loads(run("show", "--explain", "--json", formula).stdout)
    assert next(iter(facts["ranks_like"])) == "l1"
    assert len(facts["ranks_like"]) == 3
    assert facts["terms_carry"]["mul(0.001, abs(b))"] < 0.01 < facts["terms_carry"]["l1[i,k](W)"]
    text = run("show", "--explain", formula).stdout
    assert re.search(r"ranks_like +l1: ", text)
    assert "ranks_like" not in run("show", formula).stdout


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


def test_latex_can_be_piped(run: Run) -> None:
    """Comments stand above the formula, so it can be set between dollar signs as it is."""
    *comments, formula = run("latex", "taylor_2017").stdout.splitlines()
    assert comments == [
        "% A quotient is 0 where the magnitude of its divisor is at most $10^{-12}$."
    ]
    assert formula == Metric.load("taylor_2017").latex()
    assert r"\text{where } z_{o} = " in formula
    plain = run("latex", "--plain", "taylor_2017").stdout
    assert plain == Metric.load("taylor_2017").latex(name_terms=False) + "\n"
    assert "where" not in plain
    assert plain.count(r"\partial Z") == 2


def test_latex_legend(run: Run) -> None:
    text = run("latex", "--legend", "taylor_2017").stdout
    assert text.startswith(r"\[ \mathrm{score}_{o} = ")
    assert r"\documentclass" not in text
    for part in (
        "where\n\\[ z_{o} = ",
        "A quotient is 0",
        r"$\frac{\partial L_{n}}{\partial Z_{o,n,s}}$:",
    ):
        assert part in text


def test_digits(run: Run) -> None:
    rounded = run("latex", "0.123456789 * b").stdout.splitlines()
    assert rounded == ["% Constants are rounded to 3 digits.", "0.123 b_{o}"]
    assert run("latex", "--digits", "17", "0.123456789 * b").stdout == "0.123456789 b_{o}\n"
    assert "<mn>0.12</mn>" in run("latex", "--mathml", "--digits", "2", "0.123456789 * b").stdout
    assert "0.123456789" in run("latex", "--infix", "0.123456789 * b").stdout
    assert run("latex", "--digits", "0", "l1").exit_code == 2


def test_bibtex(run: Run) -> None:
    text = run("latex", "--bibtex", "l1", "wanda", "wanda_weight", "random").stdout
    assert text.startswith("% l1\n@inproceedings{li2017pruning,\n  author = {Li and others},\n")
    assert "% wanda, wanda_weight\n@inproceedings{sun2024simple," in text
    assert text.endswith("% without a published source: random\n")


def test_latex_of_several_metrics(run: Run) -> None:
    lines = run("latex", "l1", "l2").stdout.splitlines()
    assert lines == ["% l1", Metric.load("l1").latex(), "% l2", Metric.load("l2").latex()]


def test_a_metric_written_by_hand_is_known_by_its_name(run: Run, tmp_path: Path) -> None:
    metric = Metric.load("square_energy")
    assert run("latex", "square_energy").stdout == metric.latex() + "\n"
    bibtex = run("latex", "--bibtex", "square_energy").stdout
    assert bibtex == "% without a published source: square_energy\n"
    assert json.loads(run("show", "square_energy", "--json").stdout)["digest"] == metric.digest
    pair = tmp_path / "pair.json"
    assert run("pair", "l1", "square_energy", "--out", str(pair)).exit_code == 0
    shares = Metric.load(pair).shares
    assert shares is not None and shares.digest == metric.digest
    refused = run("latex", "variance_energy")
    assert refused.exit_code == 2
    assert "give 'flap'" in refused.stderr


@pytest.mark.parametrize("name", list(bundled_metrics()))
def test_standalone_document_is_balanced(run: Run, name: str) -> None:
    text = run("latex", "--standalone", name).stdout
    assert text.startswith(r"\documentclass")
    assert text.endswith("\\end{document}\n")
    metric = Metric.load(name)
    index = ",".join(metric.expression.axes)
    printed = print_latex(metric.expression, metric.primitives)
    assert displayed(rf"\mathrm{{score}}_{{{index}}} = {printed.formula}") in text
    for line in (*printed.where, *printed.definitions):
        assert displayed(line) in text
    assert " ".join(printed.notes) in text
    bare = re.sub(r"\\[{}$\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert text.count(r"\[ ") == text.count(r" \]")
    assert len(re.findall(r"\\left(?![a-z])", text)) == len(re.findall(r"\\right(?![a-z])", text))


def test_standalone_defines_what_it_uses(run: Run) -> None:
    lamp = run("latex", "--standalone", "lamp").stdout
    assert "A quotient is 0 where the magnitude of its divisor is at most $10^{-12}$." in lamp
    assert "$W_{o,i,k}$: weights" in lamp
    assert "quotient" not in run("latex", "--standalone", "l1").stdout


def test_latex_simplified(run: Run, tmp_path: Path) -> None:
    Metric.parse("neg(neg(sum[i](sum[k](abs(W)))))", name="long").save(tmp_path / "long.json")
    simple = Metric.load("l1").latex() + "\n"
    assert run("latex", tmp_path / "long.json").stdout == simple  # sympy joins these anyway
    Metric.parse("sqrt(square(div(b, gamma)))", name="root").save(tmp_path / "root.json")
    simplified = run("latex", "--simplify", tmp_path / "root.json").stdout
    note, formula = simplified.splitlines()
    assert note == f"% {symbols.Div.note}"
    assert formula == Metric.parse("abs(div(b, gamma))").latex()


def test_latex_table(run: Run) -> None:
    table = run("latex", "--table", "l1", "l2").stdout
    assert table.count(r"\texttt") == 2
    assert r"\documentclass" not in table
    whole = run("latex", "--table", "--standalone", "l1", "l2").stdout
    assert table in whole
    assert whole.startswith(r"\documentclass")
    assert "$W_{o,i,k}$: weights" in whole


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


def test_the_built_in_tasks_are_listed_with_their_costs(run: Run) -> None:
    listed = json.loads(run("tasks", "--json").stdout)["tasks"]
    lines = run("tasks").stdout.splitlines()
    assert [entry["name"] for entry in listed] == list(TASK_NAMES)
    assert max(map(len, lines)) <= 80
    (lenet,) = (entry for entry in listed if entry["name"] == "caffe_lenet-mnist")
    assert (lenet["params"], lenet["input_shape"]) == (431_080, [1, 28, 28])


def test_a_pair_is_saved_and_printed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "pair.json"
    made = run("pair", "sum[j](V^2)", "taylor_bn", "--name", "mine", "--out", str(file))
    assert made.exit_code == 0 and made.stdout.startswith("mine: sum[j](square(V)), shares by ")
    pair = Metric.load(file)
    assert pair == replace(Metric.parse("sum[j](V^2)"), name="mine").with_shares("taylor_bn")
    taylor = Metric.load("taylor_bn")
    shown = json.loads(run("show", str(file), "--json").stdout)
    assert shown["shares"]["text"] == str(taylor.expression)
    printed = run("latex", str(file)).stdout.splitlines()
    assert printed == [
        "% mine", pair.latex(),
        "% taylor_bn, which gives the shares of the layers for mine", taylor.latex(),
    ]  # fmt: skip
    assert r"\texttt{taylor\_bn}" in run("latex", "--table", str(file)).stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("l1", "magnitude", "--out", "new.json"), "'magnitude' ranks single weights"),
        (("l1", "l2", "--out", "there.json"), "is there already"),
        (("l1", "l2", "--out", "new.txt"), "ends with .json"),
        (("l1", "l2", "--name", "a b", "--out", "new.json"), "metric name 'a b'"),
        (("l1", "nothing", "--out", "new.json"), "unknown metric 'nothing'"),
    ],
)
def test_pairs_that_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("mine")
    result = run("pair", *arguments)
    assert result.exit_code == 2 and sentence in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]
    assert (tmp_path / "there.json").read_text() == "mine"
