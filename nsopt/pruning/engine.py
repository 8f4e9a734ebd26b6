"""Prune all layers together (Algorithm 1), on a network that shrinks while it trains.

Every prune step cuts the pruned channels out of the tensors. New shapes cost tens of milliseconds
(benchmarks/compaction.py), once in `prune_every` mini-batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.profiler import record_function

from nsopt.compute.checkpoint import full_state, hidden_buffers, load_full_state
from nsopt.compute.device import Compute, OwnRandomState, explain_out_of_memory, place
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.gates import ImportanceScores
from nsopt.pruning.rules import PruneRule, get_size_metric, make_rule
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.shrinking import ShrinkingModel
from nsopt.scaling.record import Trajectory, gives_a_law
from nsopt.tasks.supervision import Supervision
from nsopt.training.kernels import fast_kernels
from nsopt.training.step import sgd, train_step

_PRUNE_EPOCHS, _MOST_EVERY = 10, 10  # of a search that follows the size of its data
State = dict[str, Any]


def iterative_prune(
    arch: Architecture,
    widths: Sequence[int],
    supervision: Supervision,
    settings: SearchSettings,
    compute: Compute,
    progress: Progress,
    resume: Mapping[str, Any] | None = None,
    after_batch: Callable[[Callable[[], State], bool], None] = lambda state, pretrained: None,
    start: nn.Module | None = None,
) -> Trajectory:
    """Pre-train the network of `widths`, then prune it step by step.

    Pruning ends when `keep_fraction` of the filters are left, or before a step that would remove
    the last filter of a layer. If the record is then too short for a law, pruning goes on and keeps
    the last filters.

    Args:
        supervision: what to train on, on the device of `compute`.
        resume: a state that `after_batch` got; the run continues from it to the same result.
        after_batch: called after every mini-batch with a function that returns the state of the
            run, and with whether pre-training has just ended.
        start: a network of `widths` to begin with, by default a freshly initialised one.

    Returns:
        The widths after every prune step, with their sizes.

    Raises:
        NonFiniteLossError: if the loss becomes NaN or infinite.
        OutOfMemoryError: if a batch does not fit the device.
    """
    with (
        explain_out_of_memory(compute.device, supervision.batch_size(settings.batch_size)),
        ExitStack() as kernels,
    ):
        network = ShrinkingNetwork(arch, widths, supervision, settings, compute, start)
        kernels.enter_context(fast_kernels(network.model))
        if resume is not None:
            network.restore(resume)
        rule = make_rule(arch, widths, settings)
        schedule = PruneSchedule(rule.steps, network.batches_per_epoch, settings)
        progress.start("searching", settings.pretrain_epochs + schedule.steps)
        for _ in range(schedule.count_stages(network.batches)):
            progress.advance()
        while network.batches < schedule.batches:
            network.train_batch(
                schedule.get_lr(network.batches), score=network.batches >= schedule.pretraining
            )
            if network.batches <= schedule.pretraining:
                if network.batches % network.batches_per_epoch == 0:
                    progress.advance(f"pre-training, loss {network.take_mean_loss():.3f}")
            elif (network.batches - schedule.pretraining) % schedule.every == 0:
                loss = network.take_mean_loss()
                spare = not gives_a_law(network.rows)
                if not network.prune(rule, schedule.count_steps(network.batches), spare):
                    break
                left = rule.measure_left(network.rows[-1])
                progress.advance(f"{left:.0%} of {rule.counted} left, loss {loss:.3f}")
            after_batch(network.state, network.batches == schedule.pretraining)
    trajectory = np.array(network.rows, dtype=np.int64)
    return Trajectory(
        trajectory, np.asarray(get_size_metric(settings.price).cost(arch)(trajectory))
    )


class PruneSchedule:
    """What to do after how many mini-batches.

    Attributes:
        steps: number of prune steps.
        every: mini-batches between two of them.
        pretraining: number of mini-batches before the first prune step.
        batches: number of all mini-batches.
    """

    def __init__(self, steps: int, batches_per_epoch: int, settings: SearchSettings) -> None:
        self._epoch = batches_per_epoch
        self._settings = settings
        self.pretraining = settings.pretrain_epochs * batches_per_epoch
        self.steps = steps
        few = _PRUNE_EPOCHS * batches_per_epoch // steps
        self.every = settings.prune_every or min(max(few, 1), _MOST_EVERY)
        self.batches = self.pretraining + steps * self.every

    def get_lr(self, batches: int) -> float:
        """Return the learning rate of the next mini-batch."""
        settings = self._settings
        if batches < self.pretraining:
            return settings.lr
        step = (batches - self.pretraining) // self.every
        epochs = step * self.every // self._epoch
        return settings.prune_lr / settings.prune_lr_divisor ** (epochs // settings.prune_lr_epochs)

    def count_steps(self, batches: int) -> int:
        """Return the number of prune steps in the first `batches` mini-batches."""
        return max(0, batches - self.pretraining) // self.every

    def count_stages(self, batches: int) -> int:
        """Return the number of finished pre-training epochs and prune steps."""
        return min(batches, self.pretraining) // self._epoch + self.count_steps(batches)


def _copy_weights(start: nn.Module, model: nn.Module) -> None:
    """Copy the weights of `start` to `model`. Raises NsoptError if the shapes differ.

    Buffers that `state_dict` leaves out are copied, too, unless runs gave them another shape.
    """
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise NsoptError(f"start is not a network of these widths: {reason}") from None
    hidden = hidden_buffers(start)
    for name, buffer in hidden_buffers(model).items():
        if name in hidden and hidden[name].shape == buffer.shape:
            buffer.data = hidden[name].to(buffer, copy=True)


class ShrinkingNetwork:
    """A network in training that loses its least important channels.

    Attributes:
        model: the network itself.
        batches: number of mini-batches so far.
        batches_per_epoch: number of mini-batches in an epoch.
        rows: widths before the first prune step and after every step.
        scores: importance of the units since the last prune step.
    """

    def __init__(
        self,
        arch: Architecture,
        widths: Sequence[int],
        supervision: Supervision,
        settings: SearchSettings,
        compute: Compute,
        start: nn.Module | None = None,
    ) -> None:
        self._arch = arch
        self._compute = compute
        self._randomness = OwnRandomState(settings.seed, compute.device)
        with self._randomness.in_use():
            model = arch.build(widths)
        if start is not None:
            _copy_weights(start, model)
        self._prunable = ShrinkingModel(arch, model)
        self.model = place(model, compute.device, arch.layout).train()
        self._optimizer = sgd(self.model, settings.lr, settings.momentum, settings.weight_decay)
        self.scores = ImportanceScores(self._prunable.gates)
        self._supervision = supervision.renew()
        self._decay = settings.importance_decay
        self._data = supervision.batches(settings.batch_size, settings.seed)
        self._loss = torch.zeros((), device=compute.device)
        self._losses = 0
        self.batches_per_epoch = self._data.per_epoch
        self.batches = 0
        self.rows = [list(self._prunable.widths)]

    def train_batch(self, lr: float, score: bool) -> None:
        """Train on one mini-batch. If `score`, also score the channels."""
        with record_function("augmentation"):
            inputs, targets = self._data.next()
        self._optimizer.param_groups[0]["lr"] = lr
        with self._randomness.in_use():
            loss = train_step(
                self.model,
                self._optimizer,
                inputs,
                targets,
                self._compute,
                self._supervision.loss,
                self._score if score else lambda: None,
            )
        self._loss += loss
        self._losses += 1
        self.batches += 1

    def _score(self) -> None:
        with record_function("scoring"):
            self.scores.accumulate()

    def take_mean_loss(self) -> float:
        """Return the mean loss since the last call, and start a new mean.

        Raises:
            NonFiniteLossError: if the mean is NaN or infinite.
        """
        mean = float(self._loss) / self._losses
        self._loss, self._losses = torch.zeros_like(self._loss), 0
        if not math.isfinite(mean):
            rate = self._optimizer.param_groups[0]["lr"]
            raise NonFiniteLossError(
                f"the loss became {mean} during the search, at a learning rate of {rate:g}: try "
                "smaller ones (lr=, and prune_lr of SearchSettings)"
            )
        return mean

    def prune(self, rule: PruneRule, steps: int, spare: bool = False) -> bool:
        """Cut away what `rule` removes in its first `steps` steps.

        Args:
            spare: whether each layer keeps the few units without which the network cannot run.

        Returns:
            False, without pruning, if a layer would lose such units and `spare` is false.
        """
        with record_function("compaction"):
            importance = [scores.cpu().double().numpy() for scores in self.scores.mean()]
            kept = rule.choose_kept(importance, steps)
            kept = [mask | np.isinf(scores) for mask, scores in zip(kept, importance, strict=True)]
            narrowest = self._arch.narrowest
            if any(mask.sum() < few for mask, few in zip(kept, narrowest, strict=True)):
                if not spare:
                    return False
                for mask, scores, few in zip(kept, importance, narrowest, strict=True):
                    mask[np.argsort(-scores, kind="stable")[:few]] = True
            units = zip(self._prunable.kept, kept, strict=True)
            self._prunable.shrink([ids[mask] for ids, mask in units], self._optimizer)
            self.scores.shrink(kept, self._decay)
        self.rows.append(list(self._prunable.widths))
        return True

    def state(self) -> State:
        """Return everything from which `restore` continues."""
        return {
            "model": full_state(self.model),
            "optimizer": self._optimizer.state_dict(),
            "kept": [torch.from_numpy(units) for units in self._prunable.kept],
            "scores": self.scores.state(),
            "data": self._data.state(),
            "supervision": self._supervision.state(),
            "loss": self._loss,
            "losses": self._losses,
            "batches": self.batches,
            "rows": self.rows,
            "random": self._randomness.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        kept = [units.cpu().numpy() for units in state["kept"]]
        self._prunable.shrink(kept, self._optimizer)
        load_full_state(self.model, state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.scores.restore(state["scores"])
        self._data.restore(state["data"])
        self._supervision.restore(state["supervision"])
        self._loss, self._losses = state["loss"], state["losses"]
        self.batches, self.rows = state["batches"], state["rows"]
        self._randomness.restore(state["random"])
