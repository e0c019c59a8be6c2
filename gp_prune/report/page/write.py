"""Make the page of a run, and the overview of a folder of runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2

from gp_prune import __version__
from gp_prune.base.files import write_text
from gp_prune.errors import UserError
from gp_prune.language.primitive import primitive_set
from gp_prune.report.page import geometry
from gp_prune.report.page.parts import Cell, Heat, Page, Part, Plot, Row, Section, Table
from gp_prune.report.text import printable
from gp_prune.runs.folder import CONFIG
from gp_prune.runs.journal import NAME as JOURNAL
from gp_prune.runs.settings import check_trust, read_toml

REPORT = "report.html"
"""The file in a run folder."""

_HERE = Path(__file__).parent


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    trust: Sequence[str | Path] = (),
) -> Path:
    """Write the page of a run, of one that goes on as far as it has come.

    Nothing is trained or evaluated, and the only code that is run is that of primitives.

    Args:
        folder: the run folder.
        out: the file; by default ``report.html`` in the run folder.
        trust: Python files of primitives that the settings of the run may execute.

    Returns:
        The file.

    Raises:
        UserError: the folder holds no run, a file of the run is damaged, the page cannot be
            written, or the settings name a file of primitives that is not in ``trust``.
    """
    folder = Path(folder)
    return write_page(make_page(folder, trust), folder, None if out is None else Path(out))


def write_page(page: Page, folder: Path, out: Path | None = None, reload: int = 0) -> Path:
    """Write a page and return its file.

    Args:
        page: what it says.
        folder: the run folder.
        out: the file; by default ``report.html`` in the run folder.
        reload: see :func:`render`.
    """
    return _write(render(page, folder.resolve().name, reload), out or folder / REPORT)


def make_page(run: Path | Run, trust: Sequence[str | Path] = ()) -> Page:
    """Return what the page of a run says, from its folder; see :func:`write_report`."""
    found = run if isinstance(run, Run) else find_run(run)
    if found is None:
        raise UserError(
            f"{str(run)!r} is not a run folder: it has no {CONFIG} beside a {JOURNAL}; name a "
            "folder that evolve, genetic or autoencode has made"
        )
    folder, path = found.folder, found.folder / CONFIG
    if found.kind == "search":
        from gp_prune.report.page.search_page import search_page
        from gp_prune.search.config import SearchConfig

        config = SearchConfig.from_content(found.settings, path)
        check_trust(config.primitives, trust, f"run {str(folder)!r}")
        return search_page(folder, config, primitive_set(*config.primitives))
    if found.kind == "genetic":
        from gp_prune.genetic.settings import GeneticSettings
        from gp_prune.report.page.genetic_page import genetic_page

        return genetic_page(folder, GeneticSettings.from_content(found.settings, path))
    from gp_prune.autoencoder.settings import AutoencodeSettings
    from gp_prune.report.page.autoencoder_page import autoencoder_page

    return autoencoder_page(folder, AutoencodeSettings.from_content(found.settings, path))


_MARKS = {"ladder": "search", "rounds": "genetic", "topology": "autoencoder"}
"""A setting that no other kind of run has -> the kind of run."""


class Run(NamedTuple):
    """A run folder.

    Attributes:
        folder: the folder.
        kind: ``"search"``, ``"genetic"`` or ``"autoencoder"``.
        settings: what its settings file holds, not checked.
    """

    folder: Path
    kind: str
    settings: Mapping[str, Any]


def find_run(folder: Path) -> Run | None:
    """Return the run of a folder; None where there is none.

    Raises:
        UserError: the settings file cannot be read.
    """
    if not (folder / CONFIG).is_file() or not (folder / JOURNAL).is_file():
        return None
    settings = read_toml(folder / CONFIG)
    kinds = (kind for name, kind in _MARKS.items() if name in settings)
    return next((Run(folder, kind, settings) for kind in kinds), None)


def find_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder, in order of name; links are left alone."""
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be read: {error.strerror}") from None
    return [run for run in map(find_run, sorted(inner)) if run is not None]


def write_reports(folder: Path, out: Path | None = None, trust: Sequence[str | Path] = ()) -> Path:
    """Write the pages of all runs in a folder, and an overview that leads to them.

    Args:
        folder: that holds the run folders.
        out: the file of the overview; by default ``report.html`` in the folder.
        trust: see :func:`write_report`; a file may be of some of the runs alone.

    Returns:
        The file of the overview.

    Raises:
        UserError: see :func:`write_report`.
    """
    pages = [(run.folder, make_page(run, _trusted_by(run, trust))) for run in find_runs(folder)]
    for path, page in pages:
        write_page(page, path)
    rows = [
        Row(
            [
                Cell(path.name, link=f"{quote(path.name)}/{REPORT}"),
                Cell(page.title),
                Cell("runs" if page.running else "ended"),
                Cell(page.formula_name),
                page.formula or Cell(""),
            ]
        )
        for path, page in pages
    ]
    headings = ["run", "kind", "state", "recommended", "formula"]
    overview = Page("Runs", [], [Section("Runs", [Table(headings, rows)])])
    return _write(render(overview, folder.resolve().name), out or folder / REPORT)


def _write(text: str, target: Path) -> Path:
    try:
        write_text(target, text)
    except OSError as error:
        raise UserError(
            f"the report {str(target)!r} cannot be written ({error.strerror}); name another file "
            "with --out"
        ) from None
    return target


class _Group(NamedTuple):
    """Parts that are laid out together: pictures side by side, all others alone."""

    kind: str
    parts: list[Part]


def _group(parts: Sequence[Part]) -> list[_Group]:
    groups: list[_Group] = []
    for part in parts:
        kind = "pictures" if isinstance(part, (Plot, Heat)) else type(part).__name__
        if kind == "pictures" and groups and groups[-1].kind == kind:
            groups[-1].parts.append(part)
        else:
            groups.append(_Group(kind, [part]))
    return groups


def _trusted_by(run: Run, trust: Sequence[str | Path]) -> list[str | Path]:
    """Return those of the trusted files that the settings of a run name."""
    named = {str(Path(file).resolve()) for file in run.settings.get("primitives", ())}
    return [file for file in trust if str(Path(file).resolve()) in named]


@cache
def _environment() -> jinja2.Environment:
    """Return the environment of the template, in which all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    script = (_HERE / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        draw=geometry.draw,
        shades=geometry.shades,
        width=geometry.WIDTH,
        height=geometry.HEIGHT,
        heat_width=geometry.HEAT_WIDTH,
        heat_row=geometry.HEAT_ROW,
        heat_names=geometry.HEAT_NAMES,
        version=__version__,
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=f"sha256-{digest}",
    )
    environment.filters.update(
        exact=repr, short=lambda value: f"{value:.4g}", grouped=_group,
        kind=lambda part: type(part).__name__,
    )  # fmt: skip
    return environment


def _shown(value: Any) -> Any:
    """Write out what steers a terminal or turns the direction of text."""
    return printable(value) if type(value) is str else value


def render(page: Page, name: str, reload: int = 0) -> str:
    """Return a page as HTML.

    Args:
        page: what it says.
        name: of the run.
        reload: seconds after which the page of a run that goes on loads itself again; 0 for never.
    """
    template = _environment().get_template("page.html")
    return template.render(page=page, name=name, reload=reload)
