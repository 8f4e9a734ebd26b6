# mypy: enable-error-code="arg-type"
"""Widths may be lists or arrays, also for mypy, which checks the arguments in this file."""

import numpy as np
import optuna
from torch import nn

import nsopt
from nsopt.data.images import ImageData
from nsopt.pruning.fitting.smaller import check_widths
from nsopt.scaling.law import floor_widths
from tests.conftest import first_digits


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
