"""The model of latency: what it learns from timed networks, and how it is stored."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nsopt
from nsopt import Architecture, NsoptError
from nsopt.latency.model import LatencyModel, fit_latency, sample_widths
from nsopt.latency.runtime import draw_images
from tests.study.test_comparison import Listener


@pytest.fixture(scope="module")
def traced() -> Architecture:
    module = nn.Sequential(
        *(nn.Conv2d(1, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 40, 3, 2, 1, bias=False), nn.Hardswish()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10)),
    )
    return nsopt.trace(module, torch.randn(2, 1, 16, 16), name="small")


@pytest.fixture(params=["narrow", "traced"])
def arch(request: pytest.FixtureRequest) -> Architecture:
    found: Architecture = request.getfixturevalue(request.param)
    return found


def count_milliseconds(arch: Architecture, widths: tuple[int, ...]) -> float:
    """A device whose time nobody needs to learn: 2 ms, 1 ns per MAC, 5 ms for whole layers."""
    shares = [width / base for width, base in zip(widths, arch.base_widths, strict=True)]
    return 2 + 1e-6 * int(arch.cost("macs")(widths)) + 5 * sum(shares) / len(shares)


def learn(arch: Architecture) -> LatencyModel:
    networks = sample_widths(arch, 12, seed=0)
    return fit_latency(arch, networks, [count_milliseconds(arch, w) for w in networks])


def test_networks_that_were_not_timed_are_predicted(arch: Architecture) -> None:
    model, unseen = learn(arch), sample_widths(arch, 20, seed=1)
    expected = [count_milliseconds(arch, widths) for widths in unseen]
    np.testing.assert_allclose(model(np.array(unseen)), expected, rtol=1e-6)
    assert model(unseen[0]) == pytest.approx(expected[0])


def test_one_unit_more_costs_what_the_model_adds(arch: Architecture) -> None:
    model, base = learn(arch), np.array(arch.base_widths)
    wider = base // 2 + np.eye(len(base), dtype=int)
    np.testing.assert_allclose(model.marginal(base // 2), model(wider) - model(base // 2))


def test_a_model_of_noise_still_grows_with_the_widths(arch: Architecture) -> None:
    networks = sample_widths(arch, 12, seed=0)
    noise = np.random.default_rng(0).uniform(1.0, 2.0, len(networks)).tolist()
    model, rows = fit_latency(arch, networks, noise), np.array(sample_widths(arch, 8, seed=3))
    assert (model.marginal(rows) >= 0).all()
    assert (np.asarray(model.lower_bound(rows)) <= np.asarray(model(rows)) + 1e-9).all()


def test_a_latency_that_hardly_depends_on_widths_causes_a_warning(traced: Architecture) -> None:
    messages = []
    for most in (20.0, 11.0):

        def measure(model: nn.Module, images: Tensor, most: float = most) -> float:
            convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
            return 10 + (most - 10) * sum(m.out_channels for m in convolutions) / 64

        listener = Listener()
        nsopt.with_latency(traced, "cpu", listener, runtime=measure)
        messages.append(listener.messages)
    different, (alike,) = messages
    assert different == []
    takes = "small takes 11 ms per batch, and 10 ms"
    assert alike.startswith(f"latency hardly depends on widths here: {takes}")


def test_networks_of_any_inputs_are_timed() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    tokens = torch.randint(9, (2, 5))
    arch = nsopt.with_latency(nsopt.trace(model, tokens), "cpu", inputs=tokens, batch_size=2)
    assert arch.cost("latency")(arch.base_widths) > 0


def test_a_width_that_has_to_stay_is_never_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    arch = nsopt.trace(model, torch.randn(2, 3, 8, 8))
    kept = replace(arch)
    vars(kept).update(vars(arch) | {"narrowest": (6, 1), "capped": {arch.layer_names[0]: "so"}})
    assert {first for first, _ in sample_widths(kept, 12, seed=0)} == {6}


def test_a_model_survives_json(arch: Architecture) -> None:
    model = learn(arch)
    again = LatencyModel.from_dict(json.loads(json.dumps(model.to_dict())), arch)
    rows = np.array(sample_widths(arch, 5, seed=1))
    np.testing.assert_array_equal(again(rows), model(rows))


def test_a_model_of_other_layers_is_refused(narrow: Architecture, traced: Architecture) -> None:
    with pytest.raises(ValueError, match="other layers"):
        LatencyModel.from_dict(learn(traced).to_dict(), narrow)


def test_an_architecture_without_a_latency_model_raises_an_error(narrow: Architecture) -> None:
    with pytest.raises(NsoptError, match="vgg11 has no latency model"):
        narrow.cost("latency")


def test_images_beyond_the_memory_are_refused() -> None:
    with pytest.raises(NsoptError, match="out of memory with batches of 1000000: try batch_size=5"):
        draw_images((3, 100_000, 100_000), 1_000_000)
