"""The sources of metrics as BibTeX entries."""

from __future__ import annotations

import dataclasses
import re

import pytest

from gp_prune.metric.metric import Metric, bundled_metrics
from gp_prune.report.bibtex import Work, bibliography, works

REFERENCE = sorted(n for n, file in bundled_metrics().items() if file.parent.name == "reference")
BASELINES = {"random", "random_weight"}


@pytest.mark.parametrize("name", sorted(set(REFERENCE) - BASELINES))
def test_every_reference_metric_has_an_entry_that_says_what_its_source_says(name: str) -> None:
    source = Metric.load(name).source
    found = works(source)
    assert found, source
    for work in found:
        assert f"{work.title}, {work.venue}" in source
        assert work.year in source
        assert work.authors[0] in source
        assert not re.search(r" et al| and |^[a-z]", work.authors[0])
        assert not re.match(r"[A-Z][a-z]+( and|,) [A-Z][a-z]+,", work.title)


def test_entries_and_keys() -> None:
    metrics = [Metric.load(name) for name in REFERENCE]
    text = bibliography(metrics)
    keys = re.findall(r"^@[a-z]+\{([a-z0-9]+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == text.count("\n}\n")
    assert keys == sorted(keys)
    assert {"li2017pruning", "sun2024simple", "lecun1989optimal", "liu2022evolving"} <= set(keys)
    assert bibliography(reversed(metrics)).count("@") == len(keys)
    assert text.count("{") == text.count("}")
    assert "% without a published source: random, random_weight\n" in text
    assert r"author = {LeCun and Denker and Solla}" in text
    assert "eprint = {2004.14492}" in text
    assert "@article{gretton2012kernel," in text


SOURCES = {
    "Li et al., On A, B, ICLR 2017": [Work(("Li", "others"), "On A, B", "ICLR", "2017")],
    "Luo and Wu, An X, arXiv 1706.05791, 2017 (channel form)": [
        Work(("Luo", "Wu"), "An X", "arXiv 1706.05791", "2017")
    ],
    "Le Cun, Denker and Solla, X, NIPS 1989, Eq. 3 (a (b) c)": [
        Work(("Le Cun", "Denker", "Solla"), "X", "NIPS", "1989")
    ],
    "Kim, Of salt and pepper, JMLR 2012": [Work(("Kim",), "Of salt and pepper", "JMLR", "2012")],
    "baseline": [],
    "gp-prune evolve, seed 0": [],
    "": [],
}


@pytest.mark.parametrize("source", SOURCES)
def test_sources(source: str) -> None:
    assert works(source) == SOURCES[source]


def test_text_of_others_is_escaped_and_keys_of_the_same_word_differ() -> None:
    metric = Metric.load("l1")
    sources = ("Li et al., A & {B}_%, X 2017", "Li et al., A third, X 2017", "Li et al., B, X 2017")
    text = bibliography([dataclasses.replace(metric, source=source) for source in sources])
    assert r"{{A \& \{B\}\_\%}}" in text
    assert re.findall(r"\{(li2017.*),", text) == ["li2017b", "li2017bb", "li2017third"]
