import json
from pathlib import Path

import numpy as np
import pytest

from nsopt.errors import NsoptError
from nsopt.models.registry import get_architecture
from nsopt.scaling.algorithm3 import solve_widths_sgd
from nsopt.scaling.law import PowerLaw, floor_widths, uniform_curve

VGG11 = get_architecture("vgg11")
PARAMS = VGG11.cost("params")


@pytest.fixture
def law(golden: Path) -> PowerLaw:
    return PowerLaw.from_dict(json.loads((golden / "vgg11-cifar10.laws.json").read_text())[-1])


def test_the_first_step_is_the_published_update(law: PowerLaw) -> None:
    budget, eta = 579_786, 7.0
    start = np.maximum(np.floor(law.widths(budget)), 1)
    slope = np.sum(law.beta * law.alpha * budget ** (law.beta - 1))
    expected = budget - eta * (PARAMS(start) - budget) * slope
    fit = solve_widths_sgd(law, PARAMS, budget, eta=eta, max_steps=1)
    assert fit.tau == pytest.approx(expected, rel=1e-12)
    assert fit.steps == 1


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1, 2])
def test_the_published_step_size_settles_near_the_budget(law: PowerLaw, ratio: float) -> None:
    budget = PARAMS(floor_widths(ratio, VGG11.base_widths))
    fit = solve_widths_sgd(law, PARAMS, budget, eta=50.0)
    assert not fit.diverged
    assert fit.cost == PARAMS(fit.widths)
    assert fit.error == pytest.approx((fit.cost - budget) / budget)
    assert abs(fit.error) < 0.02


def test_divergence_is_returned_without_an_error(law: PowerLaw) -> None:
    fit = solve_widths_sgd(law, PARAMS, 579_786, eta=1e7)
    assert fit.diverged
    assert not fit.converged
    assert fit.tau > 0


@pytest.mark.parametrize(("eta", "steps", "converged"), [(7.0, 5, False), (1e-6, 1, True)])
def test_only_a_step_without_movement_counts_as_convergence(
    law: PowerLaw, eta: float, steps: int, converged: bool
) -> None:
    fit = solve_widths_sgd(law, PARAMS, 579_786, eta=eta, max_steps=5)
    assert (fit.steps, fit.converged, fit.diverged) == (steps, converged, False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"budget": 0},
        *({"budget": 10**6, "eta": eta} for eta in (0, np.nan, np.inf)),
        {"budget": 10**6, "max_steps": 0},
    ],
)
def test_arguments_must_be_positive(arguments: dict) -> None:
    with pytest.raises(NsoptError, match="positive"):
        solve_widths_sgd(uniform_curve(VGG11.base_widths), PARAMS, **arguments)
