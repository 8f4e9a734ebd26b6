import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nsopt.models.architecture import Architecture
from nsopt.models.registry import architectures, get_architecture
from nsopt.pruning.importance import ImportanceScores, gate_gradients


def randomised(arch: Architecture) -> nn.Module:
    """A small float64 network whose BatchNorms are not at their initial values."""
    model = arch.build([4 + i for i in range(len(arch.base_widths))]).double()
    for gate in arch.gate_modules(model):
        nn.init.normal_(gate.weight)
        nn.init.normal_(gate.bias)
    return model


def loss_of(model: nn.Module, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (6,), generator=generator)
    return functional.cross_entropy(model(images), labels)


def explicit_gate_gradients(arch: Architecture, model: nn.Module, seed: int) -> list[Tensor]:
    """Gradients of gates z = 1 that really multiply the channels behind each BatchNorm."""
    z = [
        torch.ones(gate.num_features, dtype=torch.float64, requires_grad=True)
        for gate in arch.gate_modules(model)
    ]
    hooks = [
        gate.register_forward_hook(lambda _, __, y, z=own: y * z[:, None, None])
        for gate, own in zip(arch.gate_modules(model), z, strict=True)
    ]
    gradients = torch.autograd.grad(loss_of(model, seed), z)
    for hook in hooks:
        hook.remove()
    return list(gradients)


@pytest.mark.parametrize("name", architectures())
def test_importance_is_that_of_an_explicit_gate(name: str) -> None:
    arch = get_architecture(name)
    model = randomised(arch)
    scores = ImportanceScores(arch.gate_modules(model))
    expected = [torch.zeros_like(gate.weight) for gate in arch.gate_modules(model)]
    for seed in range(3):
        model.zero_grad()
        loss_of(model, seed).backward()
        scores.accumulate()
        gates = explicit_gate_gradients(arch, model, seed)
        for total, explicit, ours in zip(
            expected, gates, gate_gradients(arch.gate_modules(model)), strict=True
        ):
            torch.testing.assert_close(ours, explicit, rtol=1e-10, atol=1e-12)
            total.add_(explicit.square() / 3)
    for ours, mean in zip(scores.mean(), expected, strict=True):
        torch.testing.assert_close(ours, mean, rtol=1e-10, atol=1e-14)


def test_scores_forget_on_reset() -> None:
    arch = get_architecture("vgg11")
    model = randomised(arch)
    scores = ImportanceScores(arch.gate_modules(model))
    loss_of(model, 0).backward()
    scores.accumulate()
    once = scores.mean()
    scores.reset()
    scores.accumulate()
    for before, after in zip(once, scores.mean(), strict=True):
        torch.testing.assert_close(after, before)
