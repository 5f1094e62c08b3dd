"""The documentation builds without a warning, and the Python on its pages runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PIECES = {"methods.md", "use.md"}  # a cluster of one's own; see test_use
PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name not in PIECES and CODE.search(page.read_text())
]


def run(command: list[str], directory: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / "page.py"
    program.write_text("\n".join(CODE.findall(page.read_text())))
    run([sys.executable, str(program)], tmp_path)


@pytest.mark.slow
def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    run([sys.executable, "-m", "sphinx", "-W", "-q", str(ROOT / "docs"), str(site)], tmp_path)
    reference = (site / "api.html").read_text()
    for name in ("isnas.search", "isnas.fold", "isnas.SparseCode", "solvers.lasso"):
        assert f'id="{name}"' in reference
