"""The rooms of DESIGN: imports point only down this list, and light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nsopt

PACKAGE = Path(nsopt.__file__).parent
FLOORS = [
    "errors",
    "progress",
    "settings",
    "scaling",
    "models",
    "data",
    "training",
    "pruning",
    "descent",
    "tuning",
    "reports",
    "console",
    "job",
    "join",
    "tuning_job",
    "proposals",
    "options",
    "study",
    "tune",
    "cli",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LONGEST_FILE = 300


def imported(path: Path) -> set[str]:
    """Modules of nsopt that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "nsopt":
            found |= {f"nsopt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "nsopt"}


def floor(parts: list[str]) -> int:
    return FLOORS.index(parts[0])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_only_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts
    for name in imported(path):
        parts = name.split(".")[1:]
        assert parts, "nsopt itself re-exports from above"
        assert floor(parts) <= floor(list(own))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_hold_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import nsopt", "import nsopt.cli", "import nsopt.study"])
def test_importing_costs_no_heavy_library(statement: str) -> None:
    heavy = {"torch", "numpy", "sklearn", "optuna", "pandas", "plotly", "pydantic"}
    assert not heavy & modules_after(statement)


def test_reports_need_no_torch() -> None:
    loaded = modules_after("import nsopt.reports.page")
    assert "nsopt.reports.page" in loaded
    assert "torch" not in loaded


def test_every_public_name_is_there() -> None:
    for name in nsopt.__all__:
        assert getattr(nsopt, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nsopt.nothing
