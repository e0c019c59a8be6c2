"""The gallery page of the bundled metrics."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.report.gallery import gallery

PAGE = Path(__file__).parents[2] / "docs" / "gallery.html"
VOID = {"meta", "col"}


class Nesting(HTMLParser):
    """Checks that elements close in order, and collects rows, headings and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[dict[str, str | None]] = []
        self.addresses: list[str | None] = []
        self.formulas = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr" and "data-name" in found:
            self.rows.append(found)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.formulas += tag == "math" and found.get("display") == "block"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_in_the_documentation_is_current_and_whole() -> None:
    """Write it again with: gp-prune list --html > docs/gallery.html."""
    folders: dict[str, list[Metric]] = {}
    for name, file in bundled_metrics().items():
        folders.setdefault(file.parent.name, []).append(Metric.load(name))
    text = gallery(folders)
    assert text == PAGE.read_text(encoding="utf-8")
    page = Nesting()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.addresses == []  # nothing is loaded
    assert sorted(str(row["data-name"]) for row in page.rows) == sorted(bundled_metrics())
    for row in page.rows:
        metric = Metric.load(str(row["data-name"]))
        assert row["data-grain"] == metric.granularity
        assert str(row["data-needs"]).startswith("1" if metric.needs else "0")
        float(str(row["data-cost"]))
    where = sum(r"\text{where }" in Metric.load(name).latex() for name in bundled_metrics())
    assert page.formulas >= len(bundled_metrics()) + where > len(bundled_metrics())
    sortable = re.findall(r'data-key="(\w+)"><button type="button">', text)
    assert sortable == ["name", "grain", "needs", "cost"]


def test_text_of_others_is_escaped() -> None:
    metric = dataclasses.replace(Metric.load("l1"), description="<script>1</script>", source='"&')
    text = gallery({"evolved": [metric]})
    assert text.count("<script>") == 1
    assert "&quot;&amp;" in text
