"""How closely a small network follows the trained one."""

import math

import pytest
import torch

from nsopt import Architecture, ImageData
from nsopt.compute.device import resolve_compute
from nsopt.tasks.agreement import Agreement, is_closer
from nsopt.tasks.classification import Classification, outputs_on


def make_agreement(*divergences: float) -> Agreement:
    return Agreement(torch.tensor(divergences))


def test_agreement_is_100_percent_for_equal_outputs_and_falls_with_the_divergence() -> None:
    assert make_agreement(0.0, 0.0).percentage == 100
    assert make_agreement(0.1, 0.3).percentage == pytest.approx(100 * math.exp(-0.2))
    assert make_agreement(0.1, math.inf).percentage == 0


def test_one_network_is_closer_only_beyond_the_error_of_the_images() -> None:
    some, more = make_agreement(0.1, 0.5, 0.3), make_agreement(0.2, 0.6, 0.45)
    noisy = make_agreement(0.9, 0.1, 0.4)
    assert is_closer(some, more)
    assert not is_closer(more, some)
    assert not is_closer(some, some)
    assert not is_closer(some, noisy)
    assert is_closer(some, make_agreement(*[math.inf] * 3))
    assert not is_closer(make_agreement(0.1), make_agreement(0.2)), "one image has no error"


def test_networks_are_compared_on_validation(narrow: Architecture, digits: ImageData) -> None:
    """The divergence is that of the small network from the trained one, KL(trained || small)."""
    splits, compute = digits.split(0.2), resolve_compute("cpu", "fp32")
    torch.manual_seed(0)
    trained, other = (narrow.build(narrow.base_widths).eval() for _ in range(2))
    compare = Classification(splits).comparison(trained, compute)
    same, found = compare(trained), compare(other)
    logits = (outputs_on(splits.validation, net, splits, compute) for net in (trained, other))
    p, q = (each.softmax(1) for each in logits)
    assert same.percentage == pytest.approx(100)
    torch.testing.assert_close(found.distances, (p * (p / q).log()).sum(1), rtol=1e-3, atol=1e-6)
    assert len(found.distances) == len(splits.validation)
    assert 0 < found.percentage < 100
