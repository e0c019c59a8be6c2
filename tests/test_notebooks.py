"""The notebooks of the documentation run, and hold the output of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks need gp-prune[test]")
nbclient = pytest.importorskip("nbclient", reason="the notebooks need gp-prune[test]")

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def _outputs(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Return, for each cell with code, the kinds of what it shows; texts and numbers may differ.

    A printed text arrives in one piece or in several, by how fast the kernel prints, so pieces of
    one stream that follow each other count once.
    """
    return [
        [kind for kind, _ in itertools.groupby(_kind(output) for output in cell.outputs)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _kind(output: Any) -> tuple[str, ...]:
    if output.output_type == "stream":
        return ("stream", output.name)
    return (output.output_type, *sorted(output.get("data", ())))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_the_output_of_one_run_from_the_top(path: Path) -> None:
    notebook = _read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert all(output.output_type in ("display_data", "execute_result") or output.name == "stdout"
               for output in outputs)  # fmt: skip
    assert path.stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    notebook = _read(path)
    shown = _outputs(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert _outputs(notebook) == shown
