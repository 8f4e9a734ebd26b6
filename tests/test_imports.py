"""Packages import only from those above them in FLOORS; light commands load little."""

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nsopt
from nsopt.methods.registry import methods

PACKAGE = Path(nsopt.__file__).parent
FLOORS = [
    "errors",
    "settings",
    "files",
    "notebook",
    "progress",
    "torchvision_import",
    "isolation",
    "inputs",
    "scaling",
    "tracing",
    "models",
    "data",
    "compute",
    "tasks",
    "latency",
    "training",
    "pruning",
    "storage",
    "deployment",
    "samplers",
    "session",
    "methods",
    "reports",
    "compression",
    "study",
    "cli",
    "__main__",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LONGEST_FILE = 400
ATTRIBUTES_ARE_READ_IN = ("schema.py", "trials.py", "internals.py", "studies.py")


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Return all syntax nodes of a file."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported(path: Path) -> set[str]:
    """Return the modules of nsopt that a file imports anywhere."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom) and node.module == "nsopt":
            found |= {f"nsopt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "nsopt"}


def floor(parts: Sequence[str]) -> int:
    """Return the place of a module; `__main__` of a package starts the command: the last place."""
    return FLOORS.index("__main__" if parts[-1] == "__main__" else parts[0])


def test_imports_point_only_down() -> None:
    for path in MODULES:
        own = path.relative_to(PACKAGE).with_suffix("").parts
        for name in imported(path):
            parts = name.split(".")[1:]
            assert parts or own == ("cli", "commands"), f"{path}: nsopt re-exports from above"
            assert not parts or floor(parts) <= floor(own), f"{path} imports {name}"


def imports_of_files() -> dict[str, set[str]]:
    """Return which files each file of nsopt imports, but for the names of types alone."""
    names = {".".join(("nsopt", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in MODULES}
    graph = {}
    for name, path in names.items():
        typing = [
            n for n in nodes(path) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n)
        ]
        only_types = {id(inner) for outer in typing for inner in ast.walk(outer)}
        wanted = set()
        for node in nodes(path):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in only_types:
                wanted |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] = wanted & names.keys() - {name}
    return graph


def test_no_files_import_each_other() -> None:
    graph = imports_of_files()
    assert sum(map(len, graph.values())) > len(graph)
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_there_is_one_kind_of_architecture() -> None:
    """Other rooms than models/ do not ask either whether it is one of nsopt's own."""
    classes = [node for path in MODULES for node in nodes(path) if isinstance(node, ast.ClassDef)]
    named = [name for node in classes for name in (node.name, *map(ast.unparse, node.bases))]
    assert [name for name in named if "Architecture" in name] == ["Architecture"]
    others = [path for path in MODULES if "models" not in path.parts]
    assert not [path for path in others if "design.make" in path.read_text()]


def test_files_have_at_most_400_lines() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert max(lines.values()) <= LONGEST_FILE, max(lines, key=lines.__getitem__)


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_nsopt_loads_no_heavy_library() -> None:
    loaded = modules_after("import nsopt, nsopt.cli.commands, nsopt.study")
    assert "nsopt.cli.commands" in loaded
    heavy = {"torch", "numpy", "sklearn", "optuna", "pandas", "plotly", "pydantic"}
    assert not heavy & loaded


def test_reports_and_settings_need_no_torch() -> None:
    reports = [f"nsopt.reports.{name}" for name in ("page", "dashboard")]
    settings = ["nsopt.training.settings", "nsopt.pruning.settings", "nsopt.session.presets"]
    loaded = modules_after(f"import {', '.join(reports + settings)}")
    assert {*reports, *settings} <= loaded
    assert "torch" not in loaded


def test_errors_for_misspelt_names_need_no_torch() -> None:
    code = (
        "import contextlib, nsopt.cli.app as it\n"
        "for words in ['--arch vgg1', '--data digit', '--methods neurascale']:\n"
        "    with contextlib.suppress(SystemExit): it.main(['study', *words.split()])\npass"
    )
    loaded = modules_after(code)
    assert "nsopt.errors" in loaded
    assert "torch" not in loaded


def strings(path: Path) -> set[str]:
    """Return the string constants of a file."""
    constants = (node.value for node in nodes(path) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def test_only_the_methods_package_names_methods() -> None:
    for path in MODULES:
        names_kinds = path == PACKAGE / "storage" / "schema.py"  # of studies
        if path.relative_to(PACKAGE).parts[0] != "methods" and not names_kinds:
            assert not strings(path) & methods().keys(), path


def test_only_the_schema_accesses_attributes_of_optuna() -> None:
    accesses = {"user_attrs", "set_user_attr", "set_trial_user_attr", "set_study_user_attr"}
    for path in MODULES:
        used = {node.attr for node in nodes(path) if isinstance(node, ast.Attribute)}
        if path.parent.name != "storage" or path.name not in ATTRIBUTES_ARE_READ_IN:
            assert not used & accesses, path


def test_every_public_name_has_a_docstring() -> None:
    for name in nsopt.__all__:
        assert getattr(nsopt, name).__doc__, name
    name = "nothing"
    with pytest.raises(AttributeError, match=name):
        getattr(nsopt, name)


def test_the_public_names_are_few() -> None:
    assert len(nsopt.__all__) <= 40


def test_only_the_command_line_names_options() -> None:
    """The library names arguments, `out=`, which the command line shows as options."""
    elsewhere = {"session.py", "engine.py"}  # they write command lines
    named = {
        (path.name, option)
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] != "cli" and path.name not in elsewhere
        for text in strings(path) - docstrings(path)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
    }
    assert named == {("laws.py", "--study-name"), ("laws.py", "--storage")}  # of Optuna's command


def docstrings(path: Path) -> set[str]:
    """Return the docstrings of a file as written."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(n, clean=False) for n in nodes(path) if isinstance(n, owners))
    return {text for text in found if text}
