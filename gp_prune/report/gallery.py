"""Write the gallery: one web page with every bundled metric, which needs no network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from gp_prune.formula.latex import Printed, print_latex
from gp_prune.formula.mathml import latex_to_mathml
from gp_prune.metric.metric import Metric
from gp_prune.report.catalogue import operator_cost, passes
from gp_prune.report.latex_document import signs

_STYLE = """
:root { color-scheme: light dark; --line: #d0d7de; --faint: #57606a; --shade: #f6f8fa;
  --page: #fff; --ink: #1f2328; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --line: #3d444d; --faint: #9da7b3; --shade: #161b22;
  --page: #0d1117; --ink: #e6edf3; --link: #79b8ff; } }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
col.name { width: 15rem; } col.grain { width: 6.5rem; } col.needs { width: 9rem; }
col.cost { width: 5rem; }
th, td { border-top: 1px solid var(--line); padding: 0.6rem 0.5rem; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: var(--page); border-top: 0; padding: 0;
  z-index: 1; }
th button { all: unset; box-sizing: border-box; width: 100%; padding: 0.6rem 0.5rem;
  font-weight: 600; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: -2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.plain { padding: 0.6rem 0.5rem; font-weight: 600; }
tbody th { font: 600 0.95rem/1.5 ui-monospace, monospace; }
small { display: block; color: var(--faint); font: 0.85rem/1.45 system-ui, sans-serif; }
.formula { overflow-x: auto; overflow-y: hidden; padding: 0.2rem 0; }
.formula:focus-visible { outline: 2px solid var(--link); }
.overline > mrow { border-top: 0.07em solid; padding-top: 0.1em; }
.overline > mo { visibility: hidden; font-size: 0; }
math[display=block] { width: fit-content; margin: 0.1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1rem; }
dd { margin: 0; }
@media (max-width: 50rem) {
  colgroup, .plain { display: none; }
  table, tbody, tbody tr, tbody td, tbody th { display: block; }
  thead, thead tr { display: flex; flex-wrap: wrap; position: sticky; top: 0; z-index: 1; }
  thead { background: var(--page); border-bottom: 1px solid var(--line); }
  thead th { flex: 1 1 auto; position: static; }
  tbody tr { border-bottom: 1px solid var(--line); padding: 0.6rem 0; }
  tbody td, tbody th { border: 0; padding: 0.1rem 0; }
  dl { display: block; }
  tbody td[data-label]::before { content: attr(data-label) ": "; color: var(--faint); }
}
"""
_SCRIPT = """
const body = document.querySelector("tbody");
const heads = [...document.querySelectorAll("th[data-key]")];
for (const head of heads) {
  head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = head.dataset.key, sign = down ? -1 : 1;
    const rows = [...body.rows].sort((a, b) =>
      sign * a.dataset[key].localeCompare(b.dataset[key], "en", { numeric: true }) ||
      a.dataset.name.localeCompare(b.dataset.name, "en"));
    body.append(...rows);
    document.querySelector("[role=status]").textContent =
      `sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`;
  });
}
"""
_HEADS = {"name": "metric", "": "formula", "grain": "prunes", "needs": "needs", "cost": "cost"}


def gallery(metrics: Mapping[str, Sequence[Metric]]) -> str:
    """Return the page as HTML: a table that can be sorted, with formulas in MathML.

    Args:
        metrics: folder (one of ``METRIC_FOLDERS``) -> its metrics.
    """
    rows = [_row(metric, folder) for folder, group in metrics.items() for metric in group]
    return (
        "<!DOCTYPE html>\n"
        "<!-- made by gp-prune list --html; do not edit -->\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Pruning metrics of gp-prune</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        "<h1>Pruning metrics of gp-prune</h1>\n"
        "<p>A higher score means: keep. Press a heading to sort. Cost is the sum of the declared "
        "costs of the operators, 1 for an addition of tensors of the same size.</p>\n"
        '<p role="status"></p>\n<table>\n<colgroup>'
        '<col class="name"><col><col class="grain"><col class="needs"><col class="cost">'
        f"</colgroup>\n<thead><tr>{''.join(map(_head, _HEADS))}</tr></thead>\n<tbody>\n"
        f"{''.join(rows)}</tbody>\n</table>\n"
        f"{_symbols(metric for group in metrics.values() for metric in group)}"
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _head(key: str) -> str:
    if not key:
        return f'<th scope="col"><div class="plain">{_HEADS[key]}</div></th>'
    title = f'<button type="button">{_HEADS[key]}</button>'
    return f'<th scope="col" data-key="{key}">{title}</th>'


def _row(metric: Metric, folder: str) -> str:
    needs = ", ".join(sorted(metric.needs)) or "weights only"
    cost = f"{operator_cost(metric.expression):g}"
    work = passes(metric.needs)
    # One pass less sorts before one more; "weights only" before any data.
    order = f"{bool(metric.needs):d} {needs}"
    formulas = "<small>shares of the layers</small>".join(
        _formula(print_latex(part.expression, part.primitives), part.name) for part in metric.parts
    )
    data = {"name": metric.name, "grain": metric.granularity, "needs": order, "cost": cost}
    attributes = " ".join(f'data-{key}="{escape(value)}"' for key, value in data.items())
    return (
        f"<tr {attributes}>\n"
        f'<th scope="row" id="{escape(metric.name)}">{escape(metric.name)}'
        f"<small>{escape(metric.source or folder)}</small></th>\n"
        f"<td>{formulas}<small>{escape(metric.description)}</small></td>\n"
        f'<td data-label="prunes">{escape(metric.granularity)}</td>\n'
        f'<td data-label="needs">{escape(needs)}<small>{escape(work)}</small></td>\n'
        f'<td data-label="cost">{cost}</td>\n</tr>\n'
    )


def _formula(printed: Printed, name: str) -> str:
    """Return the formula, its named terms and the sentences below it; a wide one scrolls."""
    lines = [latex_to_mathml(printed.formula)]
    if printed.where:
        lines += ["<small>where</small>", *map(latex_to_mathml, printed.where)]
    label = f"formula of {escape(name)}"
    attributes = f'class="formula" tabindex="0" role="group" aria-label="{label}"'
    box = f"<div {attributes}>{''.join(lines)}</div>"
    return box + "".join(f"<small>{_sentence(note)}</small>" for note in printed.notes)


def _sentence(note: str) -> str:
    """Return a sentence as HTML, with the mathematics between its dollar signs as MathML."""
    parts = re.split(r"\$([^$]*)\$", note)
    return "".join(_inline(part) if n % 2 else escape(part) for n, part in enumerate(parts))


def _inline(latex: str) -> str:
    return latex_to_mathml(latex).replace('display="block"', 'display="inline"')


def _symbols(metrics: Iterable[Metric]) -> str:
    """Return the meaning of every operand and index as a list of definitions."""
    pairs = [
        f"<dt>{_inline(sign)}</dt><dd>{escape(meaning)}</dd>\n" for sign, meaning in signs(metrics)
    ]
    return f"<h2>Symbols</h2>\n<dl>\n{''.join(pairs)}</dl>\n"
