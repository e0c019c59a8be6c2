"""Settings of the documentation site: ``sphinx-build -W -b html docs docs/_build``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

import gp_prune

project = "gp-prune"
author = "gp-prune maintainers"
project_copyright = "gp-prune maintainers"
version = release = gp_prune.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"gp-prune {release}"
html_extra_path = ["gallery.html", "llms.txt"]  # pages of their own, not of Sphinx

# Headings can be linked to, as on GitHub; attributes of classes are lists of the docstring.
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are shown with the output that they hold; the tests run them
napoleon_use_ivar = True
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
_REPOSITORY = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+\.\w+)(?:#[^)]*)?\)")


def offer_files(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn links to files of the repository beside ``docs/`` into files to download."""
    source[0] = _REPOSITORY.sub(r"{download}`\1 <\2>`", source[0])


def add_manual(app: Sphinx, exception: Exception | None) -> None:
    """Add all pages as one: ``manual/index.html``, and the text ``llms-full.txt``."""
    if exception is not None or app.builder.name != "html":
        return
    out, texts = Path(app.outdir), Path(app.doctreedir) / "texts"
    for builder, folder in (("singlehtml", out / "manual"), ("text", texts)):
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", builder, "-d", app.doctreedir]
        subprocess.run([*command, app.srcdir, folder], check=True)
    pages = app.env.toctree_includes[app.config.root_doc]
    parts = [(texts / f"{page}.txt").read_text("utf-8").strip() for page in pages]
    (out / "llms-full.txt").write_text("\n\n\n".join(parts) + "\n", "utf-8")


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("source-read", offer_files)
    app.connect("build-finished", add_manual)
