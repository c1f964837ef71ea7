"""The tutorial runs from top to bottom, and what it shows is what comes out."""

from __future__ import annotations

import re

import nbformat
import pytest

from experiments.tutorial import NOTEBOOK, execute

LARGEST_BYTES = 300_000
SHOWN = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    """Return what a cell printed or showed as text; of pictures only that they are there."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return ["a figure" if text.startswith("<Figure") else text for text in shown]


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    return execute()


def test_tutorial_shows_what_comes_out(executed):
    for shown, found in zip(code_cells(SHOWN), code_cells(executed), strict=True):
        if "measured" in shown.metadata.get("tags", []):
            assert len(texts(shown)) == len(texts(found)) == 1
        else:
            assert texts(shown) == texts(found), found.source


def test_tutorial_shows_neither_error_nor_warning(executed):
    for notebook in (SHOWN, executed):
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        assert outputs
        assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_tutorial_holds_nothing_of_the_machine_that_ran_it():
    assert NOTEBOOK.stat().st_size < LARGEST_BYTES
    assert set(SHOWN.metadata) == {"kernelspec"}
    assert SHOWN.metadata.kernelspec.name == "python3"
    assert not [cell.id for cell in code_cells(SHOWN) if set(cell.metadata) - {"tags"}]


def test_links_of_the_tutorial_lead_somewhere():
    targets = [target for cell in SHOWN.cells for target in re.findall(r"\]\(([^)#:]+)\)", cell.source)]
    assert targets
    assert [target for target in targets if not (NOTEBOOK.parent / target).exists()] == []
