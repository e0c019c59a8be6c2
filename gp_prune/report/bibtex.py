"""Write the sources of metrics as BibTeX entries.

A source is one line such as ``Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017 (channel
form)``: authors, title, venue and year, and in brackets what the metric takes from it. Only what it
says is written; authors beyond the first are ``others`` where it says no more.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from gp_prune.metric.metric import Metric
from gp_prune.report.text import printable

_NAME = r"[^\s,]+(?: [A-Z][^\s,]*)?"
_WORK = re.compile(
    rf"(?P<authors>{_NAME} et al\.|(?:{_NAME}, )*{_NAME} and {_NAME}|{_NAME}), (?P<title>.+), "
    r"(?P<venue>[^,]+?),? (?P<year>(?:19|20)[0-9]{2})"
)
_DETAIL = re.compile(
    r"(?:, (?:Eq|Sec|Table|Algorithm)\. [^,()]+| \([^()]*(?:\([^()]*\)[^()]*)*\))\Z"
)
_VENUES = {
    "AAAI": "AAAI Conference on Artificial Intelligence",
    "ACM MM": "ACM International Conference on Multimedia",
    "CVPR": "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "ECCV": "European Conference on Computer Vision",
    "GECCO": "Genetic and Evolutionary Computation Conference",
    "ICCV": "IEEE/CVF International Conference on Computer Vision",
    "ICLR": "International Conference on Learning Representations",
    "ICML": "International Conference on Machine Learning",
    "IJCAI": "International Joint Conference on Artificial Intelligence",
    "JMLR": "Journal of Machine Learning Research",
    "NIPS": "Advances in Neural Information Processing Systems",
    "NeurIPS": "Advances in Neural Information Processing Systems",
}
_JOURNALS = frozenset({"JMLR"})
_SMALL = frozenset({"a", "an", "and", "by", "for", "from", "in", "of", "on", "the", "to", "with"})
_ESCAPES = {
    "\\": r"{\textbackslash}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"{\textasciicircum}", "~": r"{\textasciitilde}",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One published work that a metric is from."""

    authors: tuple[str, ...]
    title: str
    venue: str
    year: str

    @property
    def key(self) -> str:
        """Return first author, year and first word of the title: ``li2017pruning``."""
        words = [_letters(word) for word in re.split(r"[\s:/-]+", self.title)]
        word = next((word for word in words if word and word not in _SMALL), "")
        return f"{_letters(self.authors[0])}{self.year}{word}"


def works(source: str) -> list[Work]:
    """Return the works that a source names, in its order; none where it names no published one."""
    found = []
    for part in re.split(r"; (?![^()]*\))", source):
        text = part.partition(": ")[2] if part.startswith("as channel metric: ") else part
        while text != (text := _DETAIL.sub("", text)):
            pass
        match = _WORK.fullmatch(text)
        if match:
            names = re.split(r" and |, ", match["authors"].replace(" et al.", " and others"))
            found.append(Work(tuple(names), match["title"], match["venue"], match["year"]))
    return found


def bibliography(metrics: Iterable[Metric]) -> str:
    """Return an entry for each work that the metrics are from, in the order of their keys.

    A comment names the metrics of each entry, and those whose source is no published work.
    """
    users: dict[Work, list[str]] = {}
    without = []
    for metric in metrics:
        found = works(metric.source)
        for work in found:
            users.setdefault(work, []).append(metric.name)
        if not found:
            without.append(metric.name)
    entries = [_entry(work, key, users[work]) for work, key in _keys(users)]
    if without:
        entries.append(f"% without a published source: {', '.join(map(printable, without))}\n")
    return "\n".join(entries)


def _keys(found: Iterable[Work]) -> list[tuple[Work, str]]:
    """Return the works with a key each; a letter tells apart works of the same key."""
    counts: dict[str, int] = {}
    pairs = []
    for work in sorted(found, key=lambda work: (work.key, work.title)):
        number = counts[work.key] = counts.get(work.key, 0) + 1
        pairs.append((work, work.key + ("" if number == 1 else chr(96 + number))))
    return pairs


def _entry(work: Work, key: str, names: Iterable[str]) -> str:
    arxiv = re.fullmatch(r"arXiv:? ?([0-9]{4}\.[0-9]{4,5})", work.venue)
    venue = _VENUES.get(work.venue, work.venue)
    fields = {
        "author": " and ".join(map(_escape, work.authors)),
        "title": f"{{{_escape(work.title)}}}",
    }
    if arxiv:
        kind = "misc"
        fields |= {"eprint": arxiv[1], "archiveprefix": "arXiv"}
    elif work.venue in _JOURNALS:
        kind = "article"
        fields["journal"] = venue
    else:
        kind = "inproceedings"
        fields["booktitle"] = _escape(venue)
    fields["year"] = work.year
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"% {', '.join(map(printable, names))}", f"@{kind}{{{key},", *lines, "}\n"])


def _letters(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain.lower())


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in printable(text))
