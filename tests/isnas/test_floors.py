"""The floors of the house: every import goes down, and only the lowest floors know no images."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import isnas

ROOT = Path(isnas.__file__).parent

FLOORS = (
    "runtime",
    "spaces",
    "networks",
    "codes",
    "tasks",
    "tabular",
    "drawing",
    "runs",
    "deployment",
    "searches",
    "commands",
    "estimator",
    "comparison",
    "api",
    "cli",
    "__main__",
)
"""From the lowest to the highest."""


def floor_of(module: str) -> int | None:
    """Return the floor of a module of the package; None for the package itself, whose names are of all floors."""
    parts = module.split(".")
    return FLOORS.index(parts[1]) if len(parts) > 1 else None


def imports(path: Path) -> list[str]:
    """Return the modules of the project that a file imports, in functions, too."""
    package = ("isnas", *path.relative_to(ROOT).with_suffix("").parts)
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: -node.level]) if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from . import spaces` means a module
            found += [f"{name}.{alias.name}" for alias in node.names] if name == "isnas" else [name]
    return [name for name in found if name.split(".")[0] in ("isnas", "experiments", "figures")]


def test_every_package_has_a_floor() -> None:
    found = {path.stem for path in ROOT.iterdir() if path.suffix in ("", ".py")}
    assert found - {"__init__", "__pycache__"} == set(FLOORS)


def test_imports_go_down() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent == ROOT and path.name == "__init__.py":
            continue
        name = ".".join(("isnas", *path.relative_to(ROOT).with_suffix("").parts))
        mine = floor_of(name)
        for imported in imports(path):
            if imported in ("isnas", "isnas.__version__"):
                continue
            if imported.startswith("figures"):  # only the command line draws them
                wrong += [] if name == "isnas.cli" else [f"{name} imports {imported}"]
            elif imported.startswith("experiments") or floor_of(imported) > mine:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_images_are_known_from_the_tasks_on() -> None:
    """Spaces, networks, codes and the loop of runs know no kind of data."""
    for floor in ("runtime", "spaces", "networks", "codes"):
        for path in (ROOT / floor).rglob("*.py"):
            assert not any(name.startswith("isnas.tasks") for name in imports(path)), path


def test_import_and_help_are_light() -> None:
    """Libraries that only some commands need are imported neither with the package nor for the help."""
    code = """
import contextlib, io, sys
import isnas.api, isnas.cli
text = io.StringIO()
with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
    isnas.cli.main(["--help"])
assert "usage: isnas" in text.getvalue()
heavy = ("matplotlib", "joblib", "sklearn", "torchvision")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_of_networks_knows_no_images() -> None:
    """Operations and cells stand on the core, which names no convolution and no norm over images."""
    core = ROOT / "networks" / "core.py"
    recurrent = ROOT / "networks" / "recurrent.py"
    for path, allowed in ((core, set()), (recurrent, {"isnas.networks.core"})):
        found = {name for name in imports(path) if name.startswith("isnas.networks")}
        assert found <= allowed, path
    words = ("conv", "batch norm", "batchnorm", "image", "channels", "stride", "2d")
    assert not [word for word in words if word in core.read_text().lower()]
