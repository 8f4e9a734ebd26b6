"""The wheel and the source distribution: their content, and a study from the wheel."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.forked import Forked, run_code

ROOT = Path(__file__).resolve().parents[2]
STUDY = (
    *("--methods=uniform", "--ratios=0.03", "--seeds=1", "--epochs=1", "--per-class=20"),
    *("--device=cpu", "--out=out"),
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
    assert not re.search(r"\]\((?!https?:)", text)


def test_the_wheel_runs_a_study_in_an_empty_folder(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-P", "-m", "nsopt.study", *STUDY]
    done = subprocess.run(
        command,
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "empty" / "out" / "report" / "index.html").is_file()
    where = [sys.executable, "-P", "-c", "import nsopt; print(nsopt.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False
    )
    assert found.stdout.startswith(str(tmp_path / "site"))


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("study", *STUDY), ["pip install 'nsopt[report]'"]),
        (("report", "--storage=sqlite:///out/study.db", "--out=r"), ["nsopt[report]"]),
        (("dashboard", "--storage=sqlite:///out/study.db"), ["nsopt[dashboard]"]),
    ],
)
def test_a_missing_extra_is_named(
    command: tuple[str, ...], parts: list[str], tmp_path: Path
) -> None:
    """Plotly and optuna-dashboard cannot be imported here."""
    code = (
        "import sys; sys.modules.update(plotly=None, optuna_dashboard=None); "
        f"from nsopt.cli.app import main; main({list(command)!r})"
    )
    done = Forked(run_code, code, cwd=tmp_path).finish()
    assert done.returncode == (0 if command[0] == "study" else 2), done.stderr
    for part in parts:
        assert part in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
