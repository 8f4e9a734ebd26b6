"""Iterative pruning of all layers together (Algorithm 1), on a network that shrinks with it.

Pruned channels are cut out of the tensors at every prune step. That changes a few shapes, which
costs tens of milliseconds (benchmarks/compaction.py), once in `prune_every` mini-batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from nsopt.compute.device import Compute, place
from nsopt.compute.memory import memory_kept
from nsopt.compute.out_of_memory import explain_out_of_memory
from nsopt.compute.random_state import OwnRandomState
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.pruning.importance import ImportanceScores
from nsopt.pruning.pruned import make_pruned
from nsopt.pruning.rules import PruneRule, make_rule, scale_metric
from nsopt.pruning.settings import SearchSettings
from nsopt.pruning.supervision import Supervision
from nsopt.scaling.record import Trajectory, gives_a_law
from nsopt.training.kernels.swap import fast_kernels
from nsopt.training.step import sgd, train_step

State = dict[str, Any]


def _nothing() -> None:
    """Nothing is scored while the network is pre-trained."""


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
    """Pre-train the network of `widths`, then prune it; the widths after every step.

    supervision: on the device of `compute`. Ends when `keep_fraction` of the filters are left, or
    before a step that would take the last filter of a layer; where there would be no law then, it
    goes on and spares the last ones. `after_batch` gets a function that tells the state of the
    run, and whether pre-training has just ended; with the state as `resume`, a run goes on to the
    same result. start: a network of `widths` to begin with, by default a freshly initialised one.
    """
    with (
        explain_out_of_memory(compute.device, supervision.batch_size(settings.batch_size)),
        compute.computing(),
        memory_kept(compute.device),
        ExitStack() as kernels,
    ):
        network = ShrinkingNetwork(arch, widths, supervision, settings, compute, start)
        kernels.enter_context(fast_kernels(network.model))
        if resume is not None:
            network.restore(resume)
        rule = make_rule(arch, widths, settings)
        plan = Plan(rule.steps, network.batches_per_epoch, settings)
        progress.start("searching", settings.pretrain_epochs + plan.steps)
        for _ in range(plan.stages_done(network.batches)):
            progress.advance()
        while network.batches < plan.batches:
            compute.give_way()
            network.train_batch(plan.lr(network.batches), score=network.batches >= plan.pretraining)
            if network.batches <= plan.pretraining:
                if network.batches % network.batches_per_epoch == 0:
                    progress.advance(f"pre-training, loss {network.mean_loss():.3f}")
            elif (network.batches - plan.pretraining) % settings.prune_every == 0:
                loss = network.mean_loss()
                spare = not gives_a_law(network.rows)
                if not network.prune(rule, plan.steps_after(network.batches), spare):
                    break
                left = rule.left(network.rows[-1])
                progress.advance(f"{left:.0%} of the {rule.counted} left, loss {loss:.3f}")
            after_batch(network.state, network.batches == plan.pretraining)
    trajectory = np.array(network.rows, dtype=np.int64)
    return Trajectory(trajectory, np.asarray(scale_metric(settings.price).cost(arch)(trajectory)))


class Plan:
    """What is due after how many mini-batches. steps: prune steps, all together."""

    def __init__(self, steps: int, batches_per_epoch: int, settings: SearchSettings) -> None:
        self._epoch = batches_per_epoch
        self._settings = settings
        self.pretraining = settings.pretrain_epochs * batches_per_epoch
        self.steps = steps
        self.batches = self.pretraining + steps * settings.prune_every

    def lr(self, batches: int) -> float:
        """The learning rate of the next mini-batch."""
        settings = self._settings
        if batches < self.pretraining:
            return settings.lr
        step = (batches - self.pretraining) // settings.prune_every
        epochs = step * settings.prune_every // self._epoch
        return settings.prune_lr / settings.prune_lr_divisor ** (epochs // settings.prune_lr_epochs)

    def steps_after(self, batches: int) -> int:
        """Prune steps that are due after `batches`, the earlier ones included."""
        return max(0, batches - self.pretraining) // self._settings.prune_every

    def stages_done(self, batches: int) -> int:
        """Epochs of pre-training and prune steps that lie behind."""
        return min(batches, self.pretraining) // self._epoch + self.steps_after(batches)


def load_weights_of(start: nn.Module, model: nn.Module) -> None:
    """Copy the weights of a network of the same shapes; NsoptError for one of others."""
    try:
        model.load_state_dict(start.state_dict())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise NsoptError(f"start is not a network of these widths: {reason}") from None


class ShrinkingNetwork:
    """A network in training whose least important channels are cut out.

    model: the network itself; batches: mini-batches so far; rows: widths before and after every
    prune step.
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
            load_weights_of(start, model)
        self._pruned = make_pruned(arch, model, widths)
        self.model = place(model, compute.device, arch.layout).train()
        self._optimizer = sgd(self.model, settings.lr, settings.momentum, settings.weight_decay)
        self._scores = ImportanceScores(self._pruned.gates)
        self._supervision = supervision
        self._decay = settings.importance_decay
        self._data = supervision.batches(settings.batch_size, settings.seed)
        self._loss = torch.zeros((), device=compute.device)
        self._losses = 0
        self.batches_per_epoch = self._data.per_epoch
        self.batches = 0
        self.rows = [self._widths()]

    def train_batch(self, lr: float, score: bool) -> None:
        """Train on one mini-batch and, if `score`, score the channels."""
        with record_function("augmentation"):
            inputs, targets = self._data.next()
        scoring = self._score if score else _nothing
        self._optimizer.param_groups[0]["lr"] = lr
        with self._randomness.in_use():
            loss = train_step(
                self.model,
                self._optimizer,
                inputs,
                targets,
                self._compute,
                self._supervision.loss,
                scoring,
            )
        self._loss += loss
        self._losses += 1
        self.batches += 1

    def _score(self) -> None:
        with record_function("scoring"):
            self._scores.accumulate()

    def mean_loss(self) -> float:
        """Mean loss since this was last asked. NonFiniteLossError if it left the numbers."""
        mean = float(self._loss) / self._losses
        self._loss, self._losses = torch.zeros_like(self._loss), 0
        if not math.isfinite(mean):
            raise NonFiniteLossError(f"the loss became {mean} while searching: try a smaller --lr")
        return mean

    def importance(self) -> list[Tensor]:
        """Return the mean importance of every unit since the last prune step, (w_l,) per group."""
        return self._scores.mean()

    def prune(self, rule: PruneRule, steps: int, spare: bool = False) -> bool:
        """Keep what `rule` keeps after `steps` prune steps, of all layers together.

        Returns False, and prunes nothing, if a layer would lose the last ones that it needs and
        these are not spared.
        """
        with record_function("compaction"):
            importance = [scores.cpu().double().numpy() for scores in self.importance()]
            kept = rule.kept(importance, steps)
            kept = [mask | np.isinf(scores) for mask, scores in zip(kept, importance, strict=True)]
            least = self._arch.narrowest
            if any(mask.sum() < few for mask, few in zip(kept, least, strict=True)):
                if not spare:
                    return False
                for mask, scores, few in zip(kept, importance, least, strict=True):
                    mask[np.argsort(-scores, kind="stable")[:few]] = True
            units = zip(self._pruned.kept, kept, strict=True)
            self._pruned.shrink([ids[mask] for ids, mask in units], self._optimizer)
            self._scores.shrink(kept, self._decay)
        self.rows.append(self._widths())
        return True

    def _widths(self) -> list[int]:
        return list(self._pruned.widths)

    def state(self) -> State:
        """Everything that `restore` needs to go on as if nothing had happened."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "kept": [torch.from_numpy(units) for units in self._pruned.kept],
            "scores": self._scores.state(),
            "data": self._data.state(),
            "loss": self._loss,
            "losses": self._losses,
            "batches": self.batches,
            "rows": self.rows,
            "random": self._randomness.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where the network that gave `state` was."""
        kept = [units.cpu().numpy() for units in state["kept"]]
        self._pruned.shrink(kept, self._optimizer)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scores.restore(state["scores"])
        self._data.restore(state["data"])
        self._loss, self._losses = state["loss"], state["losses"]
        self.batches, self.rows = state["batches"], state["rows"]
        self._randomness.restore(state["random"])
