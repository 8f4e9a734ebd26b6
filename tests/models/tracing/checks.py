"""What every traced network must fulfil."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nsopt.models.tracing.architecture import TracedArchitecture
from nsopt.models.tracing.run import tensors_of
from nsopt.models.tracing.trace import Atoms


def outputs(result: Any) -> Tensor:
    """All outputs in one vector."""
    return torch.cat([leaf.flatten() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])


def randomise(model: nn.Module) -> None:
    """Make every channel different, so that confusing two shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            if not tensor.is_floating_point() or tensor.ndim != 1:
                continue
            noise = torch.rand(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(0.5 + noise)
            else:
                tensor.add_(noise - 0.5)


def some_units(arch: TracedArchitecture, seed: int, inexact: bool) -> list[Atoms]:
    """Some units of every group; all of those that cannot be set to zero instead."""
    generator = np.random.default_rng(seed)
    kept = []
    for group in arch.network.family.groups:
        count = len(group.units)
        left = max(1, int(count * generator.uniform(0.3, 0.9)))
        all_stay = group.rigid or not (group.exact or inexact)
        some = np.sort(generator.choice(count, left, replace=False))
        kept.append(np.arange(count) if all_stay else some)
    return kept


def widths_of(arch: TracedArchitecture, kept: Sequence[Atoms]) -> list[int]:
    groups = arch.network.family.groups
    return [g.width if g.rigid else len(k) for g, k in zip(groups, kept, strict=True)]


def with_zeros(arch: TracedArchitecture, model: nn.Module, kept: Sequence[Atoms]) -> nn.Module:
    """A copy of `model` in which everything of the units that go is zero."""
    masked, family = copy.deepcopy(model), arch.network.family
    alive, tensors = family.alive(list(kept)), tensors_of(masked)
    with torch.no_grad():
        for dimension in family.dimensions:
            dead = ~alive[family.units.of_atom[dimension.atoms]]
            if dead.any() and not dimension.tensor.endswith("running_var"):
                tensors[dimension.tensor].movedim(dimension.axis, 0)[torch.from_numpy(dead)] = 0
    return masked


def check_pruning(arch: TracedArchitecture, model: nn.Module, x: Tensor) -> None:
    """A pruned network computes what the masked one does, in float64, and can be trained."""
    kept = some_units(arch, seed=0, inexact=False)
    smaller = arch.prune(model, [indices.tolist() for indices in kept])
    masked = with_zeros(arch, model, kept)
    with torch.no_grad():
        whole, expected, found = (
            outputs(copy.deepcopy(network).double().eval()(x.double()))
            for network in (model, masked, smaller)
        )
    assert float((whole - expected).abs().max()) > 1e-6 or kept_all(arch, kept)
    assert float((found - expected).abs().max()) <= 1e-12 * max(1, float(expected.abs().max()))
    check_costs(arch, smaller, widths_of(arch, kept), x)
    outputs(smaller.train()(x)).sum().backward()


def kept_all(arch: TracedArchitecture, kept: Sequence[Atoms]) -> bool:
    return widths_of(arch, kept) == list(arch.base_widths)


def check_costs(
    arch: TracedArchitecture, model: nn.Module, widths: Sequence[int], x: Tensor
) -> None:
    """Parameters and multiply-accumulates are those of the network, counted."""
    assert arch.cost("params")(widths) == sum(p.numel() for p in model.parameters())
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    assert arch.cost("macs")(widths) == counter.get_total_flops() // 2


def check_building(arch: TracedArchitecture, x: Tensor) -> None:
    """Networks of other widths cost what is said, train, and take each other's states."""
    generator = np.random.default_rng(1)
    base = np.array(arch.base_widths)
    most = [
        b if name in arch.capped else 2 * b for name, b in zip(arch.layer_names, base, strict=True)
    ]
    for widths in (
        np.maximum(1, base // 4),
        np.minimum(most, np.maximum(1, (base * generator.uniform(0.2, 2, len(base))).astype(int))),
        np.array(most),
    ):
        model = arch.build(widths.tolist())
        check_costs(arch, model, widths.tolist(), x)
        assert all(bool(p.isfinite().all()) for p in model.parameters())
    outputs(model.train()(x)).sum().backward()
    again = arch.build(most)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(outputs(again.eval()(x)), outputs(model.eval()(x)))
