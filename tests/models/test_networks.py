"""Checks of what users give for networks, and their layout: channels last if they run with it."""

import copy

import torch
from torch import nn

import nsopt
from nsopt import ImageData, TrainSettings
from nsopt.data.images import ImageSet
from nsopt.models.networks import best_layout, inputs_for, lay_out, layout_of
from tests.tracing.fields import Viewed, Volumes

LAST, FIRST = torch.channels_last, torch.contiguous_format
IMAGES = torch.randn(2, 3, 32, 32)


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(), nn.Conv2d(8, 4, 3), nn.Flatten())


def test_channels_last_is_chosen_if_the_network_runs_with_it() -> None:
    assert best_layout(convolutions(), (IMAGES,)) == LAST
    assert best_layout(Viewed(), (IMAGES,)) == FIRST
    assert best_layout(Volumes(), (torch.randn(2, 1, 6, 6, 6),)) == FIRST


def test_long_kernels_of_one_column_keep_their_channels_first() -> None:
    """With AVX-512 PyTorch 2.13 computes this one with a relative error of 0.7 in channels last."""
    x, model = torch.randn(2, 60, 95, 1), nn.Sequential(nn.Conv2d(60, 60, (64, 1)), nn.ReLU())
    exact = copy.deepcopy(model).double()(x.double())
    layout = best_layout(model, (x,))
    assert layout == FIRST
    found = lay_out(model, layout)(inputs_for(model, x))
    assert torch.allclose(found.double(), exact, atol=1e-4)
    assert best_layout(nn.Conv2d(3, 4, (7, 1)), (IMAGES,)) == LAST


def test_choosing_a_layout_changes_neither_the_network_nor_the_random_state() -> None:
    model = convolutions()
    before = torch.get_rng_state()
    best_layout(model, (IMAGES,))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert layout_of(model) == FIRST


def test_only_four_dimensional_tensors_get_the_layout() -> None:
    images, others = nn.Conv2d(3, 8, 3), (nn.Conv3d(3, 8, 3), nn.Linear(3, 8))
    model = lay_out(nn.Sequential(images, *others), LAST)
    assert layout_of(model) == LAST
    assert images.weight.is_contiguous(memory_format=LAST)
    assert all(other.weight.is_contiguous() for other in others)


def test_inputs_get_the_layout_of_the_weights() -> None:
    images = IMAGES.to(memory_format=LAST)
    own = inputs_for(lay_out(convolutions(), LAST), images)
    assert own.is_contiguous(memory_format=LAST)
    assert torch.equal(own, images)
    assert own.data_ptr() != images.data_ptr(), "a network may write into its input"
    laid, other = inputs_for(Viewed(), (images, torch.ones(2, 3).t()))
    assert laid.is_contiguous()
    assert torch.equal(laid, images)
    assert not other.is_contiguous()


def test_a_network_that_needs_channels_first_is_trained_evaluated_and_timed() -> None:
    images = ImageSet(torch.randint(255, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 2)
    arch = nsopt.trace(Viewed(), IMAGES)
    settings = TrainSettings(epochs=1, batch_size=8, lr=0.01, device="cpu", precision="fp32")
    data = ImageData("x", ("a", "b"), images, images)
    outcome = nsopt.train(arch, arch.base_widths, data, settings)
    assert 0 <= outcome.test_accuracy <= 100
    latency = nsopt.measure_latency(outcome.model, (3, 32, 32), 2, warmup=0, repeats=5)
    assert latency.median_ms > 0
