"""Algorithm 1 as the paper runs it: every gate a parameter z = 1, pruned channels only masked.

A plain reference with which benchmarks and tests compare the engine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import record_function

from nsopt import Architecture, SearchSettings
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import Splits

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class MaskedSearch:
    """A network with gates behind its modules. z: per group, one gate for each of its modules;
    masks: per group, 1 for a channel that is left and 0 for one that is pruned."""

    model: nn.Module
    z: list[list[Tensor]]
    masks: list[Tensor]


def gated(
    arch: Architecture, widths: Sequence[int], follow: bool = False, device: torch.device = _CPU
) -> MaskedSearch:
    """Return a new network of `widths` with its gates.

    follow: whether channels that are a multiple of a searched width (in MobileNetV2, the expanded
    ones) are masked together with the channel they belong to. The paper's code does not do that.
    """
    model = arch.build(widths).to(device)
    gated_modules = arch.design.find_gates(model)
    search = MaskedSearch(
        model,
        [
            [torch.ones(width, device=device, requires_grad=True) for _ in modules]
            for width, modules in zip(widths, gated_modules, strict=True)
        ],
        [torch.ones(width, device=device) for width in widths],
    )
    for group, modules in enumerate(gated_modules):
        for module, z in zip(modules, search.z[group], strict=True):
            module.register_forward_hook(_gate(search, group, z))
    if follow:
        for path, group in followers(arch):
            model.get_submodule(path).register_forward_hook(_mask(search, group))
    return search


def followers(arch: Architecture) -> list[tuple[str, int]]:
    """Return the paths of norms whose channels follow a group, with the group."""
    return [
        (f"{path.removesuffix('expand')}{kind}_bn", arch.design.group_of[block])
        for block, path in enumerate(arch.design.followers)
        for kind in ("expand", "depthwise")
    ]


def _gate(search: MaskedSearch, group: int, z: Tensor) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * (z * search.masks[group])[:, None, None]

    return hook


def _mask(search: MaskedSearch, group: int) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        mask = search.masks[group]
        return output * mask.repeat_interleave(output.shape[1] // len(mask))[:, None, None]

    return hook


def run(search: MaskedSearch, splits: Splits, settings: SearchSettings) -> Iterator[list[int]]:
    """Pre-train, then prune; yields the widths before the first and after every prune step."""
    model, masks = search.model.train(), search.masks
    data = TrainingBatches(splits, settings.batch_size, settings.seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )

    def train_batch() -> None:
        with record_function("augmentation"):
            images, labels = data.next()
        with record_function("forward"):
            optimizer.zero_grad()
            for z in (z for group in search.z for z in group):
                z.grad = None
            loss = functional.cross_entropy(model(images), labels)
        with record_function("backward"):
            loss.backward()
        with record_function("optimizer"):
            optimizer.step()

    for _ in range(settings.pretrain_epochs * data.per_epoch):
        train_batch()

    assert settings.prune_every is not None
    filters = sum(len(mask) for mask in masks)
    to_prune = filters - math.floor(settings.keep_fraction * filters)
    yield [int(mask.sum()) for mask in masks]
    for step in range(math.ceil(to_prune / settings.filters_per_step)):
        epochs = step * settings.prune_every // data.per_epoch
        for group in optimizer.param_groups:
            decay = settings.prune_lr_divisor ** (epochs // settings.prune_lr_epochs)
            group["lr"] = settings.prune_lr / decay
        scores = [torch.zeros_like(mask) for mask in masks]
        for _ in range(settings.prune_every):
            train_batch()
            with record_function("scoring"):
                for score, gates in zip(scores, search.z, strict=True):
                    for z in gates:
                        score.add_(z.grad.square() if z.grad is not None else 0)
        count = min(settings.filters_per_step, to_prune - step * settings.filters_per_step)
        left = torch.cat(masks)
        ranked = torch.cat(scores).masked_fill(left == 0, math.inf).argsort(stable=True)
        left[ranked[:count]] = 0
        parts = left.split([len(mask) for mask in masks])
        if any(part.sum() == 0 for part in parts):
            return
        for mask, part in zip(masks, parts, strict=True):
            mask.copy_(part)
        yield [int(mask.sum()) for mask in masks]
