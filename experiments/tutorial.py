"""Runs tutorial.ipynb, and keeps what it shows: `python -m experiments.tutorial`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hydrasim.disk import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")
TIMEOUT_S = 120  # of a cell


def execute(path: Path = NOTEBOOK) -> NotebookNode:
    """Run a notebook in a folder that is gone afterwards; return it with what its cells show.

    Nothing of this machine is kept in it: neither times of cells nor versions.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=TIMEOUT_S, kernel_name="python3", record_timing=False, resources=where,
            coalesce_streams=True,  # or one cell's lines come in as many pieces as they happened to arrive
        )  # fmt: skip
        client.execute()
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Rewrite tutorial.ipynb with what comes out now."""
    import nbformat

    write_text(NOTEBOOK, nbformat.writes(execute()) + "\n")


if __name__ == "__main__":
    main()
