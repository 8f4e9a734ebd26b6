"""Public functions leave the caller's random numbers alone, and its settings outside."""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nsopt
from tests.latency.brief import learn_briefly
from tests.rescaled import with_base_widths

CALLERS = torch.float16  # which nsopt's own autocast never has
PROPERTIES = "inputs", "fingerprint", "first_inputs", "first_batch"
LAW = nsopt.uniform_curve([8, 8])
# Classes, and functions that only look up, register or take apart what others made.
TRIVIAL = {"get_preset", "register_method", "architectures", "uniform_curve"}


class Dropping(nn.Module):
    """A network that draws random numbers even in evaluation mode, in training also Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.last = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != CALLERS
        if self.training:
            x = x * (random.random() + np.random.rand())
        x = self.norms[0](self.first(nn.functional.dropout(x, 0.1))).relu()
        return self.last(self.norms[1](self.second(x)).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    """Each public function with arguments."""
    folder = tmp_path_factory.mktemp("calls")
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8)
    labelled = (images, torch.arange(60) % 10)
    data = nsopt.ImageData.from_arrays(labelled, labelled, labelled)
    model = Dropping().eval()
    arch = nsopt.trace(model, torch.rand(2, 1, 8, 8))
    table = nsopt.get_architecture("vgg11", in_channels=1)
    table = with_base_widths(table, (4,) * 8)
    whole = table.build(table.base_widths)
    params, base = arch.cost("params"), arch.base_widths
    training = nsopt.TrainSettings(epochs=1, batch_size=16)
    search = nsopt.SearchSettings(
        iterations=1, pretrain_epochs=1, prune_every=1, filters_per_step=1, batch_size=16
    )
    preset = nsopt.get_preset("compress").settings
    few_steps = preset.training.updated(batch_size=16, least_steps=None)
    brief = preset.updated(search=search, training=few_steps)
    plain = brief.updated(training=few_steps.updated(distillation=None))
    before = read_state()
    with torch.inference_mode(), torch.autocast("cpu", CALLERS):
        result = nsopt.compress(model, data, ["params=60%"], epochs=1, settings=brief)
    after = read_state()
    batches = [(torch.rand(4, 1, 8, 8), torch.rand(4, 10)) for _ in range(4)]
    shuffled = DataLoader(TensorDataset(*map(torch.cat, zip(*batches, strict=True))), 2, True)

    def compress() -> None:  # once: it takes some seconds
        assert after == before

    network = result["params=60%"].network
    weights, kept, photos = folder / "weights.pt", folder / "kept.pt", folder / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "black.png")
    nsopt.export(network, kept, "state_dict")
    trial = optuna.trial.FixedTrial({f"width_{name}": 4 for name in arch.layer_names})
    return {
        "compress": compress,
        "load_data": lambda: nsopt.load_data("digits"),
        "load_images": lambda: nsopt.load_images(photos),
        "export": lambda: nsopt.export(network, weights, "state_dict"),
        "load_exported": lambda: nsopt.load_exported(kept, "state_dict", arch),
        "load_network": lambda: nsopt.load_network(kept, arch),
        "load_weights": lambda: nsopt.load_weights(kept, arch),
        "with_latency": lambda: nsopt.with_latency(table),
        "measure_latency": lambda: nsopt.measure_latency(model, (1, 8, 8), repeats=5, warmup=1),
        "solve_measured_widths": lambda: nsopt.solve_measured_widths(
            arch, LAW, 1000.0, max_width=8
        ),
        "get_architecture": lambda: nsopt.get_architecture("torchvision:squeezenet1_1"),
        "trace": lambda: nsopt.trace(model, torch.zeros(2, 1, 8, 8)),
        "fit": lambda: nsopt.fit(model, [4 for _ in base], shuffled, arch),
        "compare": lambda: nsopt.compare(
            arch, data, ["uniform"], ratios=[0.5], settings=plain, seeds=1
        ),
        **{
            f"Task.{name}": partial(read, [nsopt.Task(batches), nsopt.Task(shuffled)], name)
            for name in PROPERTIES
        },
        "search": lambda: nsopt.search(arch, data, search),
        "suggest_widths": lambda: nsopt.suggest_widths(trial, arch),
        "solve_widths": lambda: nsopt.solve_widths(LAW, params, params(base)),
        "solve_widths_sgd": lambda: nsopt.solve_widths_sgd(LAW, params, params(base), max_steps=2),
        "train": lambda: nsopt.train(arch, base, data, training),
        "prune": lambda: arch.prune(model, [range(4) for _ in base]),
        "inherit": lambda: (
            arch.inherit(model, [range(4) for _ in base], base),
            table.inherit(whole, [range(2)] * 8, table.base_widths),
        ),
        "NeuralScaleSampler": lambda: nsopt.NeuralScaleSampler(LAW, params, arch, budgets=500),
    }


def read(tasks: Sequence[nsopt.Task], name: str) -> list[Any]:
    return [getattr(task, name) for task in tasks]


def read_state() -> list[Any]:
    return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]


NAMES = [
    *(
        "compress",
        "load_data",
        "load_images",
        "export",
        "load_exported",
        "load_network",
        "load_weights",
    ),
    *("with_latency", "measure_latency", "solve_measured_widths", "get_architecture", "trace"),
    *("search", "suggest_widths", "solve_widths", "solve_widths_sgd", "train"),
    *("prune", "inherit", "NeuralScaleSampler", "fit", "compare"),
    *(f"Task.{name}" for name in PROPERTIES),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_function_keeps_the_random_numbers_of_its_caller(
    name: str, calls: dict[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    learn_briefly(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    before = read_state()
    with torch.inference_mode(), torch.autocast("cpu", CALLERS):
        calls[name]()
        assert torch.is_autocast_enabled("cpu")
    assert read_state() == before


def test_an_error_leaves_the_callers_random_numbers_alone() -> None:
    def fail() -> float:
        raise ValueError(f"unread {random.random()} {np.random.rand()} {torch.rand(())}")

    class Failing(Dropping):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_full((), fail())

    class Unreadable(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            return (torch.tensor(fail()),)

    model, task = Failing(), nsopt.Task(DataLoader(Unreadable(torch.zeros(4)), 2))
    before = read_state()
    for run in (lambda: nsopt.trace(model, torch.zeros(2, 1, 8, 8)), lambda: task.inputs):
        with pytest.raises(ValueError, match="unread"):
            run()
        assert read_state() == before


def test_training_in_the_callers_autocast_sees_its_own_steps() -> None:
    """Inside an outer autocast torch would keep the first weights in bfloat16 for all steps."""
    arch = nsopt.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.ones(2, 4))
    pairs = [(torch.ones(8, 4), torch.ones(8, 1))] * 4
    task = nsopt.Task(pairs, nn.functional.mse_loss, lambda model: 0.0)
    settings = nsopt.TrainSettings(epochs=3, device="cpu", precision="bf16")
    alone = nsopt.train(arch, [8], task, settings).losses
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled):
            assert nsopt.train(arch, [8], task, settings).losses == alone


def test_every_public_function_is_called() -> None:
    functions = {
        name
        for name in nsopt.__all__
        if callable(value := getattr(nsopt, name)) and not isinstance(value, type)
    }
    assert functions - TRIVIAL <= set(NAMES)


def test_a_new_network_follows_the_callers_seed() -> None:
    """As every module of torch does."""
    arch = nsopt.get_architecture("vgg11", in_channels=1)
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(torch.cat([p.flatten() for p in arch.build([2] * 8).parameters()]))
    assert torch.equal(*weights)


def test_importing_a_function_keeps_pythons_random_numbers() -> None:
    """Another process imports them: here they may be imported already."""
    code = (
        "import random, nsopt; state = random.getstate(); nsopt.compress; "
        "assert random.getstate() == state"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
