"""Provide ``gp-prune report``: show a run as a web page."""

from __future__ import annotations

import time
from pathlib import Path

import click

from gp_prune.errors import UserError
from gp_prune.report.text import echo

POLL_SECONDS = 1.0
RELOAD_SECONDS = 5
"""After which the page of a run that goes on loads itself again."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path),
              help="File to write.  [default: report.html in the folder]")  # fmt: skip
@click.option("--open", "opens", is_flag=True, help="Show the page in the web browser.")
@click.option("--watch", is_flag=True, help="Write it again after each generation, until the end.")
@click.option("--trust", multiple=True, metavar="FILE.py",
              help="Python file of primitives that the settings may execute.")  # fmt: skip
def report(
    folder: Path, out: Path | None, opens: bool, watch: bool, trust: tuple[str, ...]
) -> None:
    """Write the run in FOLDER as one web page that needs no network.

    FOLDER is the folder of a run of evolve, genetic or autoencode, or holds such folders: then each
    gets its page, and an overview leads to them. A run that goes on is shown as far as it has come.
    """
    from gp_prune.report.page.write import (
        find_run,
        find_runs,
        make_page,
        write_page,
        write_reports,
    )

    run = find_run(folder)
    if run is None and find_runs(folder):
        if watch:
            raise UserError(f"--watch is for one run; name one of those in {str(folder)!r}")
        target = write_reports(folder, out, trust)
        running = False
    else:
        page = make_page(run or folder, trust)
        running = watch and page.running
        target = write_page(page, folder, out, RELOAD_SECONDS if running else 0)
    echo(str(target))
    if opens and click.launch(str(target.resolve())):
        echo(
            "gp-prune: warning: no program was found that shows the page; open the file in a web "
            "browser", err=True,
        )  # fmt: skip
    while running:
        running = _write_again(folder, out, trust)


def _write_again(folder: Path, out: Path | None, trust: tuple[str, ...]) -> bool:
    """Wait until the journal of a run has grown, write its page, and tell whether it goes on."""
    from gp_prune.report.page.write import make_page, write_page
    from gp_prune.runs.journal import NAME

    size = (folder / NAME).stat().st_size
    waited = 0.0
    # A run that has ended writes its result after its last line.
    while (folder / NAME).stat().st_size == size and waited < RELOAD_SECONDS:
        time.sleep(POLL_SECONDS)
        waited += POLL_SECONDS
    page = make_page(folder, trust)
    write_page(page, folder, out, RELOAD_SECONDS if page.running else 0)
    return page.running
