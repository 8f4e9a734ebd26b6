"""Methods of users and of other packages, compared like the built-in ones."""

import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import nsopt
from nsopt import Architecture, LawInputs
from nsopt.methods import registry
from nsopt.reports.results import read_results
from tests.conftest import call_nsopt
from tests.e2e.test_user_errors import assert_fails
from tests.forked import Forked, run_module

SHORT = (
    *("--ratios=0.03", "--seeds=1", "--epochs=1", "--batch-size=32"),
    *("--device=cpu", "--precision=fp32", "--per-class=12"),
)


SMALL = f"--arch={__name__}:small"


def small() -> nn.Module:
    convolutions = (nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Flat(nsopt.Method):
    """Every layer equally wide; training starts from a base network's first filters."""

    name = "flat"
    label = "Equally wide"
    needs_trained_network = True

    def __init__(self) -> None:
        self.started: list[tuple[int, ...]] = []

    def law(self, inputs: LawInputs) -> nsopt.PowerLaw:
        assert inputs.trained is not None
        return nsopt.uniform_curve([10] * len(inputs.arch.base_widths))

    def start(self, arch: Architecture, widths: tuple[int, ...], trained: nn.Module) -> nn.Module:
        self.started.append(widths)
        kept = [torch.arange(width) for width in widths]
        return arch.inherit(trained, kept, widths)


@pytest.fixture
def flat() -> Iterator[Flat]:
    method = Flat()
    nsopt.register_method(method)
    yield method
    registry._registered.pop(method.name, None)


def test_a_registered_method_is_compared_like_a_built_in_one(flat: Flat, tmp_path: Path) -> None:
    done = call_nsopt("study", "--methods=uniform,flat", SMALL, *SHORT, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    results = read_results(f"sqlite:///{tmp_path / 'study.db'}")
    assert results.methods == ["uniform", "flat"]
    (outcome,) = results.outcomes.query("method == 'flat'").to_dict("records")
    assert len(set(outcome["widths"])) == 1
    assert outcome["params"] <= outcome["budget"]
    assert flat.started == [outcome["widths"]]
    assert "Equally wide" in (tmp_path / "report" / "index.html").read_text()
    assert not (tmp_path / "checkpoints").exists()

    del registry._registered[flat.name]  # as if it were not installed
    storage = f"--storage=sqlite:///{tmp_path / 'study.db'}"
    assert call_nsopt("report", storage, f"--out={tmp_path / 'again'}").returncode == 0
    assert "Equally wide" not in (tmp_path / "again" / "index.html").read_text()
    done = call_nsopt("study", "--methods=flat", SMALL, *SHORT, f"--out={tmp_path}")
    assert_fails(done, "unknown method")


MODULE = f"""
import nsopt
from nsopt.methods.base import Method
from torch import nn


{inspect.getsource(small)}

class Deep(Method):
    name = "deep"
    label = "Deep layers first"

    def law(self, inputs):
        return nsopt.uniform_curve(range(1, 1 + len(inputs.arch.base_widths)))
"""


def run_with_package(package: Path, arguments: Sequence[str]) -> None:
    sys.path.insert(0, str(package))
    run_module("nsopt", arguments)


def test_a_package_provides_a_method_and_a_network_to_all_processes(tmp_path: Path) -> None:
    """The method is found by its entry point; the worker runs the network's code because the user
    gave its name."""
    package = tmp_path / "site"
    metadata = package / "deepest-1.0.dist-info"
    metadata.mkdir(parents=True)
    (package / "deepest.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: deepest\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nsopt.methods]\ndeep = deepest:Deep\n")
    out = tmp_path / "out"
    command = ("study", "--methods=deep", "--workers=2", "--arch=deepest:small", f"--out={out}")
    environment = os.environ | {"PYTHONPATH": str(package)}
    arguments = (*command, "--ratios=0.3", "--seeds=2", *SHORT[2:])
    done = Forked(run_with_package, package, arguments, env=environment).finish()
    assert done.returncode == 0, done.stderr
    assert "would run code" not in done.stdout
    outcomes = read_results(f"sqlite:///{out / 'study.db'}").outcomes
    assert len(outcomes) == 2
    assert all(sorted(widths) == list(widths) for widths in outcomes["widths"])
    assert "Deep layers first" in (out / "report" / "index.html").read_text()
