"""Iterative pruning of all layers together (Algorithm 1).

A pruned channel stays in the network, held at zero by its gate.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nsopt.data.augmentation import batches_per_epoch, training_batches
from nsopt.data.images import Splits
from nsopt.errors import NonFiniteLossError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.gates import Gate, make_gates
from nsopt.pruning.importance import ImportanceScores
from nsopt.pruning.record import Trajectory
from nsopt.pruning.settings import SearchSettings
from nsopt.training.device import Compute, explain_out_of_memory, place, seeded
from nsopt.training.loop import batch_loss


def iterative_prune(
    arch: Architecture,
    widths: Sequence[int],
    splits: Splits,
    settings: SearchSettings,
    compute: Compute,
    progress: Progress,
) -> Trajectory:
    """Pre-train the network of `widths`, then prune it; the widths after every step.

    splits: on the device of `compute`. Ends when `keep_fraction` of the filters are left, or
    before a step that would take the last filter of a layer.
    """
    with seeded(settings.seed, compute.device), explain_out_of_memory(settings.batch_size):
        model = place(arch.build(widths), compute.device)
        gates = make_gates(arch.gate_modules(model), widths, compute.device)
        network = _MaskedNetwork(model, gates, widths, splits, settings, compute)
        filters = sum(widths)
        to_prune = filters - math.floor(settings.keep_fraction * filters)
        steps = math.ceil(to_prune / settings.filters_per_step)
        epoch = batches_per_epoch(len(splits.train), settings.batch_size)
        progress.start("searching", settings.pretrain_epochs + steps)
        for _ in range(settings.pretrain_epochs):
            loss = network.train(epoch)
            progress.advance(f"pre-training, loss {loss:.3f}")

        rows = [network.widths()]
        for step in range(steps):
            epochs_done = step * settings.prune_every // epoch
            loss = network.train(settings.prune_every, _pruning_lr(settings, epochs_done))
            doomed = network.least_important(
                min(settings.filters_per_step, to_prune - step * settings.filters_per_step)
            )
            if any(mask.all() for mask in doomed):
                break
            network.mask(doomed)
            rows.append(network.widths())
            progress.advance(f"{sum(rows[-1]) / filters:.0%} of the filters left, loss {loss:.3f}")
    trajectory = np.array(rows, dtype=np.int64)
    return Trajectory(trajectory, np.asarray(arch.cost("params")(trajectory)))


def _pruning_lr(settings: SearchSettings, epochs_done: int) -> float:
    return settings.prune_lr / settings.prune_lr_divisor ** (
        epochs_done // settings.prune_lr_epochs
    )


class _MaskedNetwork:
    """A network in training whose pruned channels are held at zero."""

    def __init__(
        self,
        model: nn.Module,
        gates: Sequence[Sequence[Gate]],
        widths: Sequence[int],
        splits: Splits,
        settings: SearchSettings,
        compute: Compute,
    ) -> None:
        self._model = model.train()
        self._gates = gates
        self._pruned = [
            torch.zeros(width, dtype=torch.bool, device=compute.device) for width in widths
        ]
        self._scores = ImportanceScores(gates)
        self._batches = _endless_batches(splits, settings)
        self._compute = compute
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )

    def widths(self) -> list[int]:
        """Channels left in each searched layer."""
        return [int((~pruned).sum()) for pruned in self._pruned]

    def train(self, batches: int, lr: float | None = None) -> float:
        """Train on `batches` mini-batches, scoring the channels anew; the mean loss."""
        if lr is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
        self._scores.reset()
        total = torch.zeros((), device=self._compute.device)
        for _ in range(batches):
            images, labels = next(self._batches)
            self._optimizer.zero_grad()
            loss = batch_loss(self._model, images, labels, self._compute)
            loss.backward()
            self._scores.accumulate()
            self._optimizer.step()
            self._hold_at_zero()
            total += loss.detach()
        mean = float(total) / batches
        if not math.isfinite(mean):
            raise NonFiniteLossError(f"the loss became {mean} while searching: try a smaller --lr")
        return mean

    def least_important(self, count: int) -> list[Tensor]:
        """What is pruned after `count` more channels, of all layers together: masks (w_l,)."""
        scores = torch.cat(
            [
                score.masked_fill(pruned, math.inf)
                for score, pruned in zip(self._scores.mean(), self._pruned, strict=True)
            ]
        )
        everything = torch.cat(self._pruned)
        everything[scores.argsort(stable=True)[:count]] = True
        return list(torch.split(everything, [len(pruned) for pruned in self._pruned]))

    def mask(self, pruned: Sequence[Tensor]) -> None:
        """Hold the channels of `pruned` at zero from now on."""
        self._pruned = list(pruned)
        self._hold_at_zero()

    def _hold_at_zero(self) -> None:
        for group, pruned in zip(self._gates, self._pruned, strict=True):
            for gate in group:
                gate.hold_at_zero(pruned)


def _endless_batches(splits: Splits, settings: SearchSettings) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        yield from training_batches(splits, settings.batch_size, generator)
