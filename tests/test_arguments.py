"""Wrong arguments and options are answered with one sentence: no traceback, and no hang."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import nsopt
from nsopt.data.images import ImageData
from nsopt.errors import NsoptError
from nsopt.pruning.fitting.fit import check_widths
from nsopt.scaling.law import floor_widths
from nsopt.settings import checked
from tests.conftest import call_nsopt, first_digits

DRAWS, SECONDS = 200, 60
WRONG: list[Any] = [
    *(
        None,
        5,
        0,
        -1,
        2.5,
        float("nan"),
        float("inf"),
        10**400,
        1j,
        True,
        "",
        "a",
        "macs=0.5",
        b"x",
    ),
    *([], {}, (), [None], ["a"], [1, 2], {"a": 1}, object(), len, int, "x" * 100_000, "9" * 400),
    *(np.zeros(0), np.zeros((2, 2)), torch.zeros(2), nn.Linear(2, 2), Path("/nowhere")),
]
WORDS = ["", "a", "-1", "0", "nan", "inf", "1e400", "9" * 400, "%", "=", "macs=0.5", ",", "5 5"]
WORDS += ["/"]
DATA = ["--data", "folder:/nowhere"]
STORED = ["--storage", "sqlite:////nowhere/study.db"]
OPTIONS = {
    "study": (
        DATA,
        "arch methods ratios budgets metric seeds preset epochs batch-size lr eta device",
    ),
    "search": (DATA, "iterations prune-every pretrain-epochs price convergence filters-per-step"),
    "compress": (DATA, "weights budgets epochs distillation schedule multiple-of mean std"),
    "tune": (DATA, "over trials budgets ratios pretrain-epochs"),
    "widths": (STORED, "budgets ratios metric multiple-of min-width law image-size"),
    "export": (STORED, "budget format out name method seed"),
    "latency": (STORED, "batch-size runtime measure device"),
    "report": (STORED, "name out"),
    "worker": (STORED, "data device"),
}


class TooLongError(Exception):
    pass


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def calls() -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions with right arguments, each of which is replaced by a wrong one."""
    arch = nsopt.get_architecture("vgg11", in_channels=1)
    law, params, base = nsopt.uniform_curve(arch.base_widths), arch.cost("params"), arch.base_widths
    images = np.zeros((40, 1, 8, 8), np.uint8)
    labelled = images, np.arange(40) % 2
    data = nsopt.ImageData.from_arrays(labelled, labelled, labelled)
    small = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 6), nn.Flatten())
    traced = nsopt.trace(small, torch.zeros(2, 1, 8, 8))
    trial = optuna.trial.FixedTrial({f"width_{name}": 64 for name in arch.layer_names})
    timed = {"runtime": lambda network, batch: 5.0, "progress": nsopt.Silent(), "device": "cpu"}
    briefly = nsopt.TrainSettings(epochs=1, batch_size=16, device="cpu")
    search = nsopt.SearchSettings(iterations=1, pretrain_epochs=0, prune_every=1, device="cpu")
    batches = [(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))]
    once = {"repeats": 1, "device": "cpu"}
    widths = {"law": law, "cost": params, "budget": 10**6}
    compared = {"arch": traced, "task": data, "settings": nsopt.get_preset("smoke").settings}
    return [
        (nsopt.get_architecture, {"name": "vgg11", "num_classes": 3, "in_channels": 1}),
        (nsopt.load_data, {"name": "digits", "directory": "data", "image_size": 8, "split": None}),
        (nsopt.load_data, {"name": "digits", "subset": None, "split": None}),
        (nsopt.uniform_curve, {"base_widths": base}),
        (nsopt.solve_widths, widths | {"multiple_of": 1, "min_width": 1, "max_width": None}),
        (nsopt.solve_widths, widths | {"fill": False, "warn": True}),
        (nsopt.solve_widths_sgd, widths | {"eta": 50.0, "max_steps": 3}),
        (nsopt.PowerLaw.fit, {"widths": [[1, 2], [2, 4]], "tau": [1, 2]}),
        (nsopt.PowerLaw.from_dict, {"data": law.to_dict()}),
        (nsopt.NeuralScaleSampler, {"law": law, "cost": params, "network": arch, "budgets": 8000}),
        (nsopt.NeuralScaleSampler, {"law": law, "cost": "macs", "network": arch, "spread": 0.1}),
        (
            nsopt.suggest_widths,
            {"trial": trial, "arch": arch, "low": None, "high": None, "step": 1},
        ),
        (nsopt.ImageData.from_arrays, {"train": labelled, "test": labelled, "classes": None}),
        (nsopt.ImageData.from_dataset, {"train": [(images[0], 0)], "test": [(images[0], 0)]}),
        (data.normalised_by, {"mean": [0.5], "std": [0.5]}),
        (data.subset, {"classes": 2, "per_class": 3}),
        (nsopt.get_preset, {"name": "smoke", "data": ""}),
        (nsopt.TrainSettings, {"epochs": 1, "lr": 0.1, "batch_size": 16, "device": "cpu"}),
        (nsopt.SearchSettings, {"iterations": 1, "pretrain_epochs": 1, "filters_per_step": 1}),
        (nsopt.with_latency, {"arch": traced, "batch_size": 2, **timed}),
        (nsopt.measure_latency, {"model": small, "input_shape": (1, 8, 8), "batch_size": 2}),
        (nsopt.measure_latency, {"model": small, "inputs": batches[0][0], "warmup": 1} | once),
        (nsopt.solve_measured_widths, {"arch": traced, "law": law, "budget": 9.0, **timed}),
        (nsopt.train, {"arch": traced, "widths": [4], "task": data, "settings": briefly}),
        (nsopt.search, {"arch": traced, "task": data, "settings": search, "start": None}),
        (nsopt.Task, {"train": batches, "loss": nn.MSELoss(), "score": len, "name": "a"}),
        (nsopt.trace, {"module": small, "example": torch.zeros(2, 1, 8, 8), "fixed": ()}),
        (traced.build, {"widths": [4]}),
        (arch.build, {"widths": [4] * 8}),
        (traced.cost, {"metric": "params"}),
        (params, {"widths": base}),
        (nsopt.load_network, {"path": "/nowhere", "arch": None}),
        (nsopt.load_weights, {"path": "/nowhere", "arch": None}),
        (nsopt.load_exported, {"path": "/nowhere", "format": "onnx", "arch": None}),
        (nsopt.export, {"network": None, "path": "/nowhere", "format": "onnx"}),
        (nsopt.register_method, {"method": None}),
        (nsopt.compress, {"model": nn.Linear(2, 2), "task": data, "budgets": ["macs=50%"]}),
        (nsopt.compress, {"model": small, "task": data, "budgets": ["macs=50%"], "epochs": 0}),
        (nsopt.compare, compared | {"methods": ["uniform"], "ratios": [0.5], "seeds": 1}),
        (nsopt.compare, compared | {"budgets": [40, "50"]}),
        (nsopt.compare, compared | {"preset": "smoke"}),
        (nsopt.compare, compared | {"out": None, "progress": nsopt.Silent()}),
        (nsopt.fit, {"model": small, "widths": [2], "inputs": torch.rand(20, 1, 8, 8), "seed": 0}),
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_argument_is_one_sentence(
    calls: list[tuple[Callable[..., Any], dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    draw, raw = random.Random(0), []
    for _ in range(DRAWS):
        function, right = draw.choice(calls)
        name, wrong = draw.choice(list(right)), draw.choice(WRONG)
        if name == "cost" and callable(wrong):  # the user's own code
            continue
        try:
            with limited(SECONDS):
                function(**(right | {name: wrong}))
        except NsoptError as error:
            if len(str(error)) > 1000 or "\n" in str(error):
                raw.append(f"{function.__qualname__} {name}: {len(str(error))} letters")
        except Exception as error:
            called = getattr(function, "__qualname__", type(function).__name__)
            raw.append(f"{called}({name}={wrong!r:.30}): {type(error).__name__}: {error!s:.100}")
    assert not raw, "\n".join(raw)


def test_a_wrong_option_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw, raw = random.Random(0), []
    for _ in range(DRAWS // 4):
        command = draw.choice(list(OPTIONS))
        rest, options = OPTIONS[command]
        option, word = draw.choice(options.split()), draw.choice(WORDS)
        with limited(SECONDS):
            done = call_nsopt(command, *rest, f"--{option}={word}")
        if done.returncode != 2 or done.stderr.count("\n") != 1 or len(done.stderr) > 1500:
            raw.append(f"{command} --{option}={word:.20}: {done.returncode} {done.stderr:.200}")
    assert not raw, "\n".join(raw)


@checked
def example(count: int, share: float = 0.5, names: list[str] | None = None) -> str:
    if count == 13:
        raise RuntimeError("the user's own")
    assert type(count) is int
    return ",".join(names or []) + str(count * share)


def test_numbers_are_checked_before_a_call_and_the_rest_after_its_error() -> None:
    assert example(np.int64(2), share=1) == "2"
    assert example(2, names=("a", "b")) == "a,b1.0"
    for wrong in (2.5, True, "2", None, [1]):
        with pytest.raises(NsoptError, match="count must be a whole number, not "):
            example(wrong)
    with pytest.raises(NsoptError, match="share must be a number, not 'x"):
        example(2, share="x" * 1000)
    with pytest.raises(NsoptError, match="names must be list or None, not 5"):
        example(2, names=5)
    with pytest.raises(RuntimeError, match="the user's own"):
        example(13)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        example()  # type: ignore[call-arg]


def test_public_functions_take_the_widths_of_the_solver() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(8, 10))
    data: ImageData = first_digits(100, 20)
    images = data.train.images.float() / 255
    arch = nsopt.trace(model, images[:2])
    law = nsopt.uniform_curve(np.array(arch.base_widths))
    widths = nsopt.solve_widths(law, arch.cost("params"), 120).widths
    small = arch.build(widths)
    assert {name: tuple(t.shape) for name, t in small.state_dict().items()} == arch.shapes(widths)
    assert arch.check_widths(widths) == tuple(widths)
    assert floor_widths(1.0, widths) == check_widths(arch, widths) == tuple(widths)
    arch.inherit(model, [np.arange(width) for width in widths], widths)
    arch.prune(model, [np.arange(width) for width in widths])
    fitted = nsopt.fit(model, widths, images).get_parameter("0.weight")
    assert len(fitted) == widths[0]
    settings = nsopt.TrainSettings(epochs=1, batch_size=32, device="cpu")
    outcome = nsopt.train(arch, widths, data, settings)
    assert outcome.widths == tuple(widths)
    trial = optuna.trial.FixedTrial({f"width_{name}": 4 for name in arch.layer_names})
    assert nsopt.suggest_widths(trial, arch, low=widths // 2, high=widths * 2) == (4,)
