"""How many files of nsopt/ does a reader meet who follows a call?

Counts the files in which a function runs, bodies of modules and classes left out, of
`nsopt.compress` without training and of `nsopt.compare` of one uniform trial, on toy networks.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch
from torch import nn

import nsopt

_PACKAGE = Path(nsopt.__file__).parent


def compress() -> None:
    """Make a network of two convolutions smaller."""
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 4)).eval()
    inputs = torch.randn(64, 3, 12, 12)
    nsopt.compress(model, inputs, ["macs=50%"], epochs=0, progress=nsopt.Silent())


def compare() -> None:
    """Train one network of uniform widths for an epoch."""
    data = nsopt.load_data("digits").subset(None, 10)
    settings = nsopt.get_preset("smoke").settings
    settings = settings.updated(training=settings.training.updated(epochs=1))
    silent = nsopt.Silent()
    nsopt.compare("vgg11", data, ["uniform"], [0.05], seeds=1, settings=settings, progress=silent)


def count_files(call: Callable[[], None]) -> int:
    entered = set[str]()

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            entered.add(frame.f_code.co_filename)

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    return sum(Path(name).is_relative_to(_PACKAGE) for name in entered)


if __name__ == "__main__":
    total = len(list(_PACKAGE.rglob("*.py")))
    for call in (compress, compare):
        print(f"nsopt.{call.__name__}: {count_files(call)} of {total} files")
