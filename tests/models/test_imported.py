"""Networks of users and of other packages, imported by name."""

import json
import re
from pathlib import Path

import pytest
import torch

import nsopt
from nsopt.models.imported import network_factory
from nsopt.reports.results import read_results
from tests.conftest import call_nsopt, one_line
from tests.latency.brief import learn_briefly, time_by_processor

MODULE = """
from torch import nn


def small(num_classes):
    layers, inputs = [], 1
    for outputs in (16, 24, 32):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes))


def sizeless():
    return small(10)


def failing():
    raise RuntimeError("no such thing")


def nothing():
    return 3
"""
SHORT = (
    *("--pretrain-epochs=1", "--prune-every=2", "--filters-per-step=3", "--batch-size=32"),
    *("--device=cpu", "--precision=fp32", "--per-class=30"),
)


@pytest.fixture(autouse=True)
def mynets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mynets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)


def test_get_architecture_traces_a_network_of_torchvision() -> None:
    arch = nsopt.get_architecture("torchvision:squeezenet1_1", num_classes=7, image_size=64)
    assert (arch.name, arch.num_classes) == ("torchvision:squeezenet1_1", 7)
    assert len(arch.base_widths) == 25
    again = nsopt.get_architecture("torchvision:squeezenet1_1", num_classes=7, image_size=64)
    assert again.layer_names == arch.layer_names


def test_a_segmentation_network_of_torchvision_has_no_pretrained_backbone() -> None:
    make = network_factory("torchvision:lraspp_mobilenet_v3_large")
    assert make(7)(torch.zeros(1, 3, 32, 32))["out"].shape[1] == 7  # it would be downloaded


def test_a_factory_gets_num_classes_if_it_accepts_it() -> None:
    assert nsopt.get_architecture("mynets:small", 5, in_channels=1).num_classes == 5
    assert nsopt.get_architecture("mynets:sizeless", 5, in_channels=1).num_classes == 10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "torchvision:resnet19",
            "unknown network of torchvision 'resnet19': did you mean 'resnet18'",
        ),
        ("mynets:smal", "cannot import the function 'mynets:smal': .*has no attribute 'smal'$"),
        (":", "':' is not a function: write package.module:function"),
        ("nowhere:small", "cannot import the function 'nowhere:small': No module named"),
        ("math:pi", "math:pi is not a function: it is of type float"),
        ("builtins:dict", "builtins:dict makes a dict, not a torch.nn.Module"),
        ("mynets:nothing", "mynets:nothing makes a int, not a torch.nn.Module"),
        (
            "mynets:failing",
            r":failing makes no network \(RuntimeError: no such thing \(mynets.py, line \d+\)\)",
        ),
        ("torchvision:raft_small", r"torchvision:raft_small makes no network \(TypeError"),
        ("mynets:small", "mynets:small cannot be traced on images of 3x32x32"),
    ],
)
def test_a_network_that_cannot_be_imported_raises_an_error(name: str, message: str) -> None:
    with one_line(message):
        nsopt.get_architecture(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def net(:", r"SyntaxError: .*\(broken.py, line 1\)"),
        ("\n\nundefined", r"NameError: name 'undefined' is not defined \(broken.py, line 3\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(broken.py, line 2\)"),
        ("raise RuntimeError('two\\nlines')", r"RuntimeError: two lines \(broken.py, line 1\)"),
        ("import nowhere.at_all", "No module named 'nowhere'"),
    ],
)
def test_a_module_that_fails_at_its_import_is_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with one_line(f"cannot import the function 'broken:net': {message}"):
        nsopt.get_architecture("broken:net")


def test_all_commands_accept_a_users_own_network(tmp_path: Path) -> None:
    methods = "--methods=uniform,morphnet,magnitude,neuralscale"
    study = ("study", "--arch=mynets:small", methods, "--ratios=0.5", "--seeds=1", "--epochs=1")
    done = call_nsopt(*study, *SHORT, f"--out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    fixed = "mynets:small: 3 widths can change, fixed: 11"
    assert fixed in done.stdout
    storage = f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    network = f"--out={tmp_path / 'network'}"
    name = "mynets:small-digits-30each-smoke"
    for other in (
        ("worker", f"--study={name}", f"--out={tmp_path / 'worker'}"),
        ("report", f"--out={tmp_path / 'report'}"),
        ("export", f"--study={name}/uniform", "--format=state_dict", network),
    ):
        given = [] if other[0] == "report" else ["--arch=mynets:small"]
        assert fixed in call_nsopt(*other, f"--storage={storage}", *given).stdout
    assert fixed in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    results = read_results(storage)
    assert results.methods == ["uniform", "magnitude", "morphnet", "neuralscale"]
    assert (results.outcomes["params"] <= results.outcomes["budget"]).all()
    stored = (f"--storage={storage}", "--arch=mynets:small")
    proposed = call_nsopt("widths", *stored, "--ratios=0.25", "--json")
    (row,) = json.loads(proposed.stdout)
    assert row["params"] <= row["budget"]
    (weights, *_) = (tmp_path / "out" / "artifacts").iterdir()
    assert sum(p.numel() for p in nsopt.load_weights(weights, "mynets:small").parameters()) > 0


def test_latency_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second command uses the model that the first one stored."""
    learn_briefly(monkeypatch)
    time_by_processor(monkeypatch)
    study = (
        *("study", "--arch=mynets:small", "--methods=uniform,neuralscale-macs", "--epochs=1"),
        *("--metric=latency", "--ratios=3", *SHORT, f"--out={tmp_path}"),
    )
    done = call_nsopt(*study, "--seeds=1")
    assert done.returncode == 0, done.stderr
    assert re.search(r" ms +predicted ", done.stdout)
    outcomes = read_results(f"sqlite:///{tmp_path / 'study.db'}").outcomes
    timed = re.findall(r"at\s+most\s+([\d.]+)\s+ms", done.stdout)
    assert len(timed) == 2
    assert max(map(float, timed)) <= 1.001 * outcomes["budget"].max()  # it prints four digits
    assert outcomes["latency_ms"].notna().all()
    assert call_nsopt(*study, "--seeds=2").returncode == 0
    after = read_results(f"sqlite:///{tmp_path / 'study.db'}").outcomes
    assert after["budget"].nunique() == 1
    assert len(after) == 2 * len(outcomes)
