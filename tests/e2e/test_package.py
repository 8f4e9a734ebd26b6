"""The wheel and the source distribution: their content, and a study from the wheel."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from contextlib import suppress
from email import message_from_string
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.forked import Forked, run_code

ROOT = Path(__file__).resolve().parents[2]
STUDY = (
    *("--methods=uniform", "--ratios=0.03", "--seeds=1", "--epochs=1", "--per-class=20"),
    *("--device=cpu", "--precision=fp32", "--out=out"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and a wheel, built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for call in ("build_sdist", "build_wheel"):
        code = f"from setuptools.build_meta import {call}; {call}({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return folder


def test_git_holds_files_and_no_links() -> None:
    """A link to an environment would break `make` in every clone."""
    asked = ["git", "ls-files", "--stage"]
    listed = subprocess.run(asked, cwd=ROOT, capture_output=True, check=True)
    lines = listed.stdout.decode().splitlines()
    assert lines
    assert {line[:6] for line in lines} <= {"100644", "100755"}, lines


def test_the_source_distribution_is_complete(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[1] for name in file.getnames() if "/" in name}
    for name in ("CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt", "mkdocs.yml"):
        assert name in names
    for folder in ("tests/golden", "benchmarks", "docs/guides", "studies", "package"):
        assert any(name.startswith(f"{folder}/") for name in names)


def test_the_long_description_links_only_to_web_pages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith("METADATA"))
        text = file.read(name).decode()
    assert "nsopt finds the widths of a PyTorch network for your budget of" in text
    assert "![" not in text
    assert "nsopt/py.typed" in zipfile.ZipFile(wheel).namelist()
    assert not re.search(r"\]\((?!https?:)", text)


def test_the_wheel_runs_a_study_with_its_dependencies_alone(built: Path, tmp_path: Path) -> None:
    """In an environment that has no package but nsopt and what its metadata require, no extras."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "empty", symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    (site,) = (tmp_path / "empty" / "lib").glob("*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    (metadata,) = site.glob("nsopt-*.dist-info/METADATA")
    for package in required_by(metadata):
        for name in {path.parts[0] for path in package.files or ()} - {"..", "__pycache__"}:
            with suppress(FileExistsError):  # a folder that two packages share
                (site / name).symlink_to(package.locate_file(name))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [python, "-c", STUDY_OF_THE_WHEEL, *STUDY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    assert (tmp_path / "out" / "report" / "index.html").is_file()


STUDY_OF_THE_WHEEL = """
import importlib, importlib.util, pkgutil, sys
import nsopt
for module in pkgutil.walk_packages(nsopt.__path__, "nsopt."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for extra in "optuna_dashboard", "onnx", "psycopg", "timm", "pytest":
    assert importlib.util.find_spec(extra) is None, extra
print(nsopt.__file__)
from nsopt.cli.app import main
main(["study", *sys.argv[1:]])
"""


def required_by(metadata: Path) -> list[Distribution]:
    """Return the installed packages that a package needs without extras, and those they need."""
    lines = message_from_string(metadata.read_text()).get_all("Requires-Dist", [])
    found: dict[str, Distribution] = {}
    left = [(line, "") for line in lines]
    done = set(left)
    while left:
        line, extra = left.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        package = found.setdefault(requirement.name, distribution(requirement.name))
        extras = ("", *requirement.extras)
        needed = {(each, asked) for each in package.requires or () for asked in extras}
        left += needed - done
        done |= needed
    return list(found.values())


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['optuna_dashboard'] = None; "
        "from nsopt.cli.app import main; main(['dashboard', '--storage=sqlite:///study.db'])"
    )
    done = Forked(run_code, code, cwd=tmp_path).finish()
    assert done.returncode == 2
    assert "pip install 'nsopt[dashboard]'" in done.stderr
    assert "Traceback" not in done.stderr
