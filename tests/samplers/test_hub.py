"""The sampler as OptunaHub loads it."""

import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import optuna
import optunahub
import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[2] / "package"
HOME = PACKAGE / "samplers" / "neuralscale"

optuna.logging.set_verbosity(optuna.logging.ERROR)


def load_local(package: str) -> Any:
    return optunahub.load_local_module(package, registry_root=str(PACKAGE))


def test_optunahub_loads_the_sampler() -> None:
    module = load_local("samplers/neuralscale")
    arch = module.get_architecture("vgg11")
    law = module.uniform_curve(arch.base_widths)
    given = law, arch.cost("params"), arch.layer_names
    sampler = module.NeuralScaleSampler(*given, budgets=[579_786])
    study = optuna.create_study(sampler=sampler)
    assert module.suggest_widths(study.ask(), arch) == tuple(w // 4 for w in arch.base_widths)


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(optunahub, "load_module", load_local)
    best = runpy.run_path(str(HOME / "example.py"))["study"].best_params
    assert best["width_conv1"] > 1
    assert "'lr'" in capsys.readouterr().out


def test_the_readme_has_the_front_matter_of_the_registry() -> None:
    _, front, text = (HOME / "README.md").read_text().split("---\n", maxsplit=2)
    fields = yaml.safe_load(front)
    assert set(fields) == {"author", "title", "description", "tags", "optuna_versions", "license"}
    assert "sampler" in fields["tags"]
    assert fields["license"] == "MIT License"
    for heading in ("## Abstract", "## APIs", "## Installation", "## Example", "### Reference"):
        assert heading in text


def test_the_package_follows_the_rules_of_the_registry() -> None:
    assert "nsopt" in (HOME / "requirements.txt").read_text()
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, HOME],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
    config = tomllib.loads((PACKAGE / "ruff.toml").read_text())
    assert config["line-length"] == 99
    assert config["lint"]["isort"]["force-single-line"]
