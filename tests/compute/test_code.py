"""A stored study is of a network and of functions with the same code."""

import functools
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nsopt
from nsopt.compute.checkpoint import CodeReader, identify_code
from nsopt.models.registry import get_architecture

ROOT = Path(nsopt.__file__).parents[1]
CODE = """
from torch import nn


class Base(nn.Sequential):
    text = '''
not indented'''

    def shift(self, x):
        return x + 1  # as in the training


def make():
    class Net(Base):
        "A network like others."
        def forward(self, x):
            return super().forward(self.shift(x) * 2)

    return Net(nn.Linear(4, 8), nn.LeakyReLU(0.1), nn.Linear(8, 2))
"""


def test_changed_code_or_arguments_are_another_network_and_changed_comments_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    same = ("", ""), ("# as in", "# like"), ('"A network like others."', "")
    changed = ("x + 1", "x + 5"), ("* 2", "* 3"), ("0.1", "0.2"), ("not indented", "text")
    found = []
    for number, (old, new) in enumerate([*same, *changed]):
        (tmp_path / f"shifting{number}.py").write_text(CODE.replace(old, new) if old else CODE)
        model = import_module(f"shifting{number}").make()
        found.append(identify_code(nsopt.trace(model, torch.randn(2, 4))))
    assert found[0] == found[1] == found[2]
    assert len(set(found)) == 1 + len(changed)


@dataclass(frozen=True)
class Config:
    """Slopes, somewhere."""

    slopes: dict[str, list[float]]
    rate: np.float32 = field(default_factory=lambda: np.float32(0.5))


class Kind(Enum):
    WIDE, DEEP = 1, 2


class Acting(nn.Linear):
    def __init__(self, act: Callable[[Tensor], Tensor], config: Any) -> None:
        super().__init__(8, 2)
        self.act, self.config = act, config

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.act(x))


def scaled(slope: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * slope


@dataclass
class Slope:
    slope: float

    def apply(self, x: Tensor) -> Tensor:
        return x * self.slope


def test_functions_and_numbers_that_modules_store_count() -> None:
    def identify(*arguments: Any) -> int | None:
        model = nn.Sequential(nn.Linear(4, 8), Acting(*arguments))
        return identify_code(nsopt.trace(model, torch.randn(2, 4)))

    relu = torch.relu, 0.1
    assert identify(*relu) == identify(*relu)
    assert len({identify(*relu), identify(torch.tanh, 0.1), identify(torch.relu, 0.2)}) == 3
    assert identify_code(get_architecture("vgg11")) is None


class Shifted(nn.Linear):
    mean: Tensor

    def __init__(self, mean: float) -> None:
        super().__init__(4, 8)
        self.register_buffer("mean", torch.full((4,), mean), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.last, self.size = x - self.mean, len(x)
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(self.last)


def test_buffers_that_no_file_of_weights_holds_count() -> None:
    def identify(mean: float, runs: bool = False) -> int | None:
        model = nn.Sequential(Shifted(mean), nn.Linear(8, 2))
        if runs:
            model(torch.randn(2, 4))
        return identify_code(nsopt.trace(model, torch.randn(2, 4)))

    assert identify(0.0) != identify(0.5)
    assert identify(0.0) == identify(0.0, runs=True), "what it last computed does not count"


def times(factor: float, *, more: float = 0.0) -> Callable[..., Any]:
    return lambda outputs, targets, extra=more: (outputs - targets).abs().mean() * factor + extra


class Score:
    """Scores by a threshold."""

    def __init__(self, threshold: float, batches: list[Tensor] | None = None) -> None:
        self._threshold, self.batches = threshold, batches

    def __call__(self, model: nn.Module) -> float:
        return self._threshold


MODULE = '''
import torch
LEVEL = 1.0
TABLE = {"a": [1, 2]}
calls, counts = [], {}

def helper(x):
    return x * LEVEL

@torch.no_grad()
def score(model):
    """Documented."""
    # commented
    calls.append(1)
    counts["n"] = counts.get("n", 0) + 1
    return sum(helper(v) for v in TABLE["a"] if v in {"x", "y", "z", 1, 2})

def unused():
    return 1
'''


def test_what_a_function_reads_counts_and_what_it_counts_does_not() -> None:
    def read(value: Any) -> int:
        return CodeReader().read(value)

    data = [torch.zeros(2), torch.ones(2)]
    same: list[tuple[Any, Any]] = [
        (times(1.0), times(1.0)),
        (Score(0.5, data), Score(0.5, [torch.zeros(2), torch.ones(2)])),
        (DataLoader(TensorDataset(data[0]), 2), DataLoader(TensorDataset(data[0].clone()), 2)),
        (nn.CrossEntropyLoss(weight=data[1]), nn.CrossEntropyLoss(weight=data[1])),
        ({scaled(0.2): 1, "names": {"b", "a"}}, {scaled(0.2): 1, "names": {"a", "b"}}),
    ]
    for one, other in same:
        assert read(one) == read(other)
    different = [
        *(times(1.0), times(2.0), times(1.0, more=1.0), partial(times(1.0), extra=2.0)),
        *(Score(0.5, data), Score(0.6, data), Score(0.5, data[:1]), Score(0.5, data).__call__),
        *(DataLoader(TensorDataset(x), 2) for x in data),
        *(nn.CrossEntropyLoss(weight=x) for x in data),
        *(nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
        *(functional.mse_loss, functional.l1_loss, torch.dist, torch.cdist),
        *(Config({"a": [0.1]}), Config({"a": [0.2]}), Config({"a": [0.1]}, np.float32(0.25))),
        *(SimpleNamespace(slope=0.1), SimpleNamespace(slope=0.2), Kind.WIDE, Kind.DEEP),
        *({scaled(0.2): 1}, {scaled(0.3): 1}, {"first"}, {"second"}, torch.float16, slice(2)),
        *(lambda x: x * 2, lambda x: x * 3, scaled(0.1), scaled(0.2)),
        *(lambda x: sum([x * 2 for _ in "a"]), lambda x: sum([x * 3 for _ in "a"])),
        *(MethodType(operator.mul, 2.0), MethodType(operator.mul, 3.0)),
        *(nn.ReLU().forward, nn.Tanh().forward, Tensor.relu, Tensor.tanh),
        *(Slope(0.1).apply, Slope(0.2).apply, np.array([0.1, 0.2]), np.array([0.1, 0.3])),
    ]
    assert len(set(map(read, different))) == len(different)


VARIANTS = [
    ("", "\n\n", True),
    ("# commented", "# of other words", True),
    ('"""Documented."""', '"""Other."""', False),
    ("def unused():\n    return 1", "", True),
    ("calls, counts = [], {}", "calls, counts = [5], {'n': 3}", True),
    ("LEVEL = 1.0", "LEVEL = 2.0", False),
    ("x * LEVEL", "x + LEVEL", False),
    ("[1, 2]", "[1, 3]", False),
    ('"y", "z"', '"y", "w"', False),
    ("sum(", "max(", False),
]


def test_functions_are_read_the_same_in_every_process(tmp_path: Path) -> None:
    for number, (old, new, _) in enumerate(VARIANTS):
        (tmp_path / f"score{number}.py").write_text(MODULE.replace(old, new, 1))
    code = (
        "import json; from importlib import import_module; "
        "from nsopt.compute.checkpoint import CodeReader; "
        f"modules = [import_module(f'score{{n}}') for n in range({len(VARIANTS)})]; "
        "print(json.dumps([CodeReader().read(module.score) for module in modules]))"
    )
    found = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        found.append(subprocess.check_output([sys.executable, "-c", code], env=environment))
    assert found[0] == found[1]
    numbers = json.loads(found[0])
    assert [number == numbers[0] for number in numbers] == [same for *_, same in VARIANTS]
    assert len(set(numbers)) == 1 + sum(not same for *_, same in VARIANTS)


def test_what_cannot_be_read_is_named() -> None:
    table, reader = pd.DataFrame({"a": [1]}), CodeReader()
    reader.read(lambda model: len(table))
    assert [name.rpartition(".")[2] for name in reader.unread] == ["DataFrame"]


def multiplied(factor: float) -> Callable[..., Any]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(model: Any) -> Any:
            return factor * function(model)

        return call

    return decorate


def with_attribute(number: int) -> Any:
    def score(model: Any) -> Any:
        return score.number  # type: ignore[attr-defined]

    score.number = number  # type: ignore[attr-defined]
    return score


class Adjusted:
    def __init__(self) -> None:
        self.level, self.items = 0, list[int]()

    def set(self, level: int) -> Any:
        self.level = level
        return self

    def add(self, item: int) -> Any:
        self.items.append(item)
        return self

    def score(self, model: Any) -> int:
        return self.level + sum(self.items)


@dataclass(slots=True)
class Slotted:
    level: int

    def __call__(self, model: Any) -> int:
        return self.level


@pytest.mark.parametrize(
    "make",
    [
        lambda number: multiplied(number)(times),
        with_attribute,
        lambda number: Adjusted().set(number).score,
        lambda number: Adjusted().add(number).score,
        Slotted,
        lambda number: lambda model: Path(f"{number}") and number,
        lambda number: partial(len, Path(f"{number}")),
    ],
    ids=["decorator", "attribute", "setter", "method that adds", "slots", "closure", "path"],
)
def test_what_was_set_before_the_first_call_counts(make: Callable[[int], Any]) -> None:
    assert CodeReader().read(make(1)) == CodeReader().read(make(1))
    assert CodeReader().read(make(1)) != CodeReader().read(make(2))
