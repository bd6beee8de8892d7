"""The notebooks run from top to bottom on the history of a tiny campaign."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    path = folder / "campaign.yaml"
    path.write_text(f"extends: {ROOT / 'campaigns' / 'tiny.yaml'}\noutput: {folder}\nname: run\nrounds: 1\n")
    subprocess.run([sys.executable, "-m", "al_crystal.run", str(path)], check=True, timeout=900)
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "campaigns" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(run, notebook, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("AL_CRYSTAL_RUN", str(run))
    content = nbformat.read(notebook, as_version=4)
    assert all(not cell.get("outputs") for cell in content.cells), "notebooks are kept without outputs"
    NotebookClient(content, timeout=300, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    assert os.environ["AL_CRYSTAL_RUN"] == str(run)
