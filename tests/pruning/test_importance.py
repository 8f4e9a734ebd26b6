"""Importance against explicit gates: parameters z = 1 that multiply the channels."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.architecture import Architecture
from nsopt.models.registry import architectures, get_architecture
from nsopt.pruning.gates import Gate, ImportanceScores, make_gate


def choose_widths(arch: Architecture) -> list[int]:
    return [4 + i % 5 for i in range(len(arch.base_widths))]


def build_randomised(arch: Architecture) -> nn.Module:
    """Build a small float64 network whose BatchNorms are not at their initial values."""
    model = arch.build(choose_widths(arch)).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


def compute_loss(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (6,), generator=generator)
    return functional.cross_entropy(model(images), labels)


def compute_gate_gradients(arch: Architecture, model: nn.Module, seed: int) -> list[list[Tensor]]:
    """Return dE/dz of every gate of every group."""
    z: list[list[Tensor]] = []
    hooks = []
    for modules, width in zip(arch.design.find_gates(model), choose_widths(arch), strict=True):
        z.append([torch.ones(width, dtype=torch.float64, requires_grad=True) for _ in modules])
        for module, own in zip(modules, z[-1], strict=True):
            hooks.append(module.register_forward_hook(lambda _, __, y, z=own: y * z[:, None, None]))
    gradients = iter(torch.autograd.grad(compute_loss(model, seed), [own for g in z for own in g]))
    for hook in hooks:
        hook.remove()
    return [[next(gradients) for _ in group] for group in z]


def find_gates(arch: Architecture, model: nn.Module) -> list[list[Gate]]:
    return [[make_gate(module) for module in group] for group in arch.design.find_gates(model)]


@pytest.mark.parametrize("name", architectures())
def test_importance_equals_that_of_explicit_gates(name: str) -> None:
    arch = get_architecture(name)
    model = build_randomised(arch)
    explicit = [compute_gate_gradients(arch, model, seed) for seed in range(3)]
    gates = find_gates(arch, model)
    scores = ImportanceScores(gates)
    for seed, expected in enumerate(explicit):
        model.zero_grad()
        compute_loss(model, seed).backward()
        scores.accumulate()
        for group, gradients in zip(gates, expected, strict=True):
            for gate, gradient in zip(group, gradients, strict=True):
                torch.testing.assert_close(gate(), gradient, rtol=1e-10, atol=1e-12)
    for number, mean in enumerate(scores.mean()):
        squares = [sum(z.square() for z in batch[number]) for batch in explicit]
        torch.testing.assert_close(mean, sum(squares) / 3, rtol=1e-9, atol=1e-14)


def score_once() -> tuple[ImportanceScores, list[np.ndarray]]:
    """Return scores of one batch, and masks that keep every other channel."""
    arch = get_architecture("vgg11")
    model = build_randomised(arch)
    scores = ImportanceScores(find_gates(arch, model))
    compute_loss(model, 0).backward()
    scores.accumulate()
    return scores, [np.arange(len(mean)) % 2 == 0 for mean in scores.mean()]


def test_scores_start_anew_without_decay() -> None:
    scores, kept = score_once()
    once = scores.mean()
    scores.shrink(kept, decay=0)
    with pytest.raises(ValueError, match="no mini-batch"):
        scores.mean()
    scores.accumulate()
    for before, after in zip(once, scores.mean(), strict=True):
        torch.testing.assert_close(after, before)


def test_earlier_batches_count_less_with_decay() -> None:
    scores, _ = score_once()
    everything = [np.ones(len(mean), dtype=np.bool_) for mean in scores.mean()]
    for batches, decay in ((3, 0.5), (1, 0.5)):  # the same batch: a mean over any is its score
        for _ in range(batches):
            scores.accumulate()
        before = scores.mean()
        scores.shrink(everything, decay)
        for one, other in zip(before, scores.mean(), strict=True):
            torch.testing.assert_close(one, other)
    assert scores.state()["batches"] == ((1 + 3) * 0.5 + 1) * 0.5


def test_kept_channels_keep_their_scores_with_decay() -> None:
    scores, kept = score_once()
    once = scores.mean()
    scores.shrink(kept, decay=0.5)
    for before, after, mask in zip(once, scores.mean(), kept, strict=True):
        torch.testing.assert_close(after, before[torch.from_numpy(mask)])


def test_a_gate_behind_an_unsupported_module_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot score channels behind a ReLU"):
        make_gate(nn.ReLU())
