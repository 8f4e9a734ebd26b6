"""The examples in the docstrings of public names run."""

import doctest
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

import nsopt
from nsopt.torchvision_import import import_torchvision
from tests.conftest import first_digits
from tests.docs.test_pages import compress_briefly, narrow_architecture
from tests.forked import Forked
from tests.latency.brief import learn_briefly, measure_briefly, time_by_processor

_METHODS = (FunctionType, classmethod, property)


def test_the_examples_of_public_names_run(tmp_path: Path) -> None:
    done = Forked(run_examples, cwd=tmp_path).finish()
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def examples() -> Iterator[tuple[str, str]]:
    """Yield the public names with examples, and their code."""
    parser = doctest.DocTestParser()
    for name in nsopt.__all__:
        thing = getattr(nsopt, name)
        members = vars(thing).values() if isinstance(thing, type) else ()
        for one in (thing, *(each for each in members if isinstance(each, _METHODS))):
            code = "".join(each.source for each in parser.get_examples(one.__doc__ or ""))
            if code:
                yield name, code


def run_examples() -> None:
    """Run each example with the names that it assumes, on few digits and narrow networks."""
    patch, data = pytest.MonkeyPatch(), first_digits(100, 20)
    patch.setattr(nsopt, "load_data", lambda name, **options: data)
    patch.setattr(nsopt, "get_architecture", narrow_architecture)
    briefly = functools.partial(nsopt.measure_latency, warmup=2, repeats=4)
    patch.setattr(nsopt, "measure_latency", briefly)
    compress_briefly(patch)
    measure_briefly(patch)
    learn_briefly(patch)
    time_by_processor(patch)
    arch = narrow_architecture("vgg11", in_channels=1)
    settings = nsopt.TrainSettings(epochs=1, batch_size=32, lr=0.02)
    model = nsopt.train(arch, arch.base_widths, data, settings).model
    result = nsopt.compress(model, data, ["macs=50%"], arch=arch, epochs=1)
    patch.setattr(nsopt, "compress", lambda model, data, budgets, settings=None: result)
    nsopt.export(result["macs=50%"].network, "small.pt", "state_dict")
    Path("photos").mkdir()
    Image.new("RGB", (64, 64)).save("photos/black.png")
    import_torchvision("models")
    import_torchvision("datasets")
    assumed = {
        "nsopt": nsopt,
        "np": np,
        "optuna": optuna,
        "torch": torch,
        "torchvision": importlib.import_module("torchvision"),
        "arch": arch,
        "data": data,
        "law": nsopt.uniform_curve(arch.base_widths),
        "images": data.train.images.float() / 255,
        "model": model,
        "objective": lambda trial: float(sum(nsopt.suggest_widths(trial, arch))),
        "settings": settings,
    }
    for name, code in examples():
        print(name, flush=True)
        exec(compile(code, name, "exec"), dict(assumed))
