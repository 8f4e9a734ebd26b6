"""The tests of this folder run where torch says that it has a GPU: in one child process.

The library behind it (guard.cpp) must be loaded before torch. The child runs pytest again and sends
its reports; they are shown as if the tests had run here. A test asks for the devices that it needs
by the fixtures `cuda` (one), `two_cuda` and `mps`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import nsopt
from nsopt import Architecture, ImageData
from tests.rescaled import with_base_widths
from tests.simulated_device.guard import LIBRARY, build, compiler
from tests.simulated_device.networks import small
from tests.simulated_device.simulation import SimulatedDevices, simulated

_FOLDER = Path(__file__).parent
_REPORTS = "NSOPT_SIMULATED_DEVICE_REPORTS"  # environment variable: where the child sends them
_LONGEST = 600.0
_child = LIBRARY in os.environ
_reports: dict[str, list[Any]] = {}  # by test


@pytest.fixture
def cuda() -> Iterator[SimulatedDevices]:
    with simulated("cuda") as devices:
        yield devices


@pytest.fixture
def two_cuda() -> Iterator[SimulatedDevices]:
    with simulated("cuda", count=2) as devices:
        yield devices


@pytest.fixture
def mps() -> Iterator[SimulatedDevices]:
    with simulated("mps") as devices:
        yield devices


@pytest.fixture(scope="session")
def images() -> ImageData:
    """Noise: 64 training images of two classes, one of which is brighter."""
    generator = torch.Generator().manual_seed(0)

    def some(count: int) -> tuple[Any, Any]:
        labels = torch.arange(count) % 2
        noise = torch.randint(128, (count, 1, 32, 32), dtype=torch.uint8, generator=generator)
        return noise + 64 * labels[:, None, None, None].to(torch.uint8), labels

    return ImageData.from_arrays(some(64), some(32), some(16))


@pytest.fixture(params=["built-in", "traced"])
def arch(request: pytest.FixtureRequest, narrow: Architecture) -> nsopt.Architecture:
    """A built-in network, and a traced one."""
    if request.param == "built-in":
        return with_base_widths(narrow, (6, 8, 8, 8, 8, 8, 8, 8))
    torch.manual_seed(0)
    return nsopt.trace(small(), torch.randn(2, 1, 32, 32), "traced")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _FOLDER in item.path.parents:
            item.add_marker(pytest.mark.simulated_device)
            if reason := _why_not():
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_not() -> str:
    if compiler() is None:
        return "the simulated device needs Linux and a C++ compiler"
    return "torch has real devices here" if torch.backends.cuda.is_built() else ""


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if _child or not item.get_closest_marker("simulated_device"):
        return None
    if item.get_closest_marker("skip"):
        return None
    if item.nodeid not in _reports:
        _reports.update(_run_in_child(item.session))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_in_child(session: pytest.Session) -> dict[str, list[Any]]:
    """Run the selected tests of this folder in a child; return their reports, by test."""
    config = session.config
    tests = [item for item in session.items if _FOLDER in item.path.parents]
    library = build(str(compiler()), config.cache.mkdir("simulated-device"))
    with tempfile.TemporaryDirectory() as folder:
        sent = Path(folder) / "reports"
        sent.touch()
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--numprocesses=0", "-p", "no:cacheprovider"),
                *("-p", "tests.simulated_device.guard"),
                *(item.nodeid for item in tests),
            ],
            cwd=config.rootpath,
            env=os.environ | {LIBRARY: str(library), _REPORTS: str(sent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_LONGEST,
        )
        lines = sent.read_text(encoding="utf-8").splitlines()
    found: dict[str, list[Any]] = {item.nodeid: [] for item in tests}
    for line in lines:
        data = json.loads(line)
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        found[report.nodeid].append(report)
    for item in tests:
        if not any(report.when == "teardown" for report in found[item.nodeid]):
            found[item.nodeid].append(_lost(item, run))
    return found


def _lost(item: pytest.Item, run: subprocess.CompletedProcess[str]) -> pytest.TestReport:
    """Return the report of a test that the child did not finish."""
    text = f"the child process ended with {run.returncode}:\n{run.stdout}"
    return pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _child:
        with Path(os.environ[_REPORTS]).open("a", encoding="utf-8") as sent:
            sent.write(json.dumps(_to_json(report)) + "\n")


def _to_json(report: pytest.TestReport) -> Any:
    return report._to_json() | {"$report_type": "TestReport"}
