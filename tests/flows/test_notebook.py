"""The notebooks of the documentation run, from their first cell to their last, on the small sample."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from flows.jobs import BuildReport

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CHECKOUT = Path(__file__).parents[2]
NOTEBOOKS = sorted((CHECKOUT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_printed(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []


def test_the_first_steps_run(built: tuple[Path, BuildReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("VERNACLIP_ROOT", str(built[0]))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # see `let_threads_sleep`
    notebook = nbformat.read(CHECKOUT / "docs" / "notebooks" / "first-steps.ipynb", as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    shown = {
        cell["source"].splitlines()[-1]: cell["outputs"][-1]["data"]
        for cell in notebook.cells
        if cell["cell_type"] == "code" and cell["outputs"] and "data" in cell["outputs"][-1]
    }
    losses = json.loads(shown["losses"]["text/plain"])
    assert len(losses) == 10
    assert all(0 < loss < 10 for loss in losses)
    assert "image/png" in shown["image"]
    assert "deduplicate" in shown["funnel.to_pandas()"]["text/plain"]
    assert shown["longest.fetchall()"]["text/plain"].count("('") == 3
