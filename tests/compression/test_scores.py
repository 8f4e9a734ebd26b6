"""How closely a small network follows the trained one."""

import math

import pytest
import torch

from nsopt.compression.agreement import Agreement, is_closer


def make_agreement(*divergences: float) -> Agreement:
    return Agreement(torch.tensor(divergences), 50.0)


def test_agreement_is_100_percent_for_equal_outputs_and_falls_with_the_divergence() -> None:
    assert make_agreement(0.0, 0.0).percentage == 100
    assert make_agreement(0.1, 0.3).percentage == pytest.approx(100 * math.exp(-0.2))
    assert make_agreement(0.1, math.nan).percentage == 0


def test_one_network_is_closer_only_beyond_the_error_of_the_images() -> None:
    some, more = make_agreement(0.1, 0.5, 0.3), make_agreement(0.2, 0.6, 0.45)
    noisy = make_agreement(0.9, 0.1, 0.4)
    assert is_closer(some, more)
    assert not is_closer(more, some)
    assert not is_closer(some, some)
    assert not is_closer(some, noisy)
    assert not is_closer(make_agreement(0.1), make_agreement(0.2))
