"""Train a network of given widths."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from nsopt.compute.checkpoint import (
    Checkpoint,
    State,
    full_state,
    identify_code,
    load_full_state,
    weights_checksum,
)
from nsopt.compute.device import (
    Compute,
    OwnRandomState,
    explain_out_of_memory,
    place,
    resolve_compute,
    use_seed,
    wait_for,
)
from nsopt.data.images import ImageData
from nsopt.errors import NonFiniteLossError, NsoptError
from nsopt.files import check_writable
from nsopt.inputs import call_network, count_examples
from nsopt.isolation import public
from nsopt.models.architecture import Architecture
from nsopt.models.networks import inputs_for
from nsopt.progress import Progress, Silent
from nsopt.scaling.cost import Widths
from nsopt.tasks.supervise import check_outputs, check_training, supervise
from nsopt.tasks.supervision import (
    Evaluation,
    Loss,
    Resumable,
    Supervision,
    evaluate,
    evaluations_of,
)
from nsopt.tasks.task import Task
from nsopt.tracing.originals import copy_model, shapes_of, unwrapped
from nsopt.training.kernels import fast_kernels
from nsopt.training.outcome import Epoch, Interrupted, Outcome
from nsopt.training.precision import choose_compute
from nsopt.training.settings import TrainSettings
from nsopt.training.step import (
    EMA,
    free_statistics,
    make_optimizer,
    make_schedule,
    train_step,
    widen,
)


@public
def train(
    arch: Architecture,
    widths: Widths,
    task: Task | ImageData,
    settings: TrainSettings,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    start: nn.Module | None = None,
    teacher: nn.Module | None = None,
    on_epoch: Callable[[int, Epoch], None] = lambda epoch, metrics: None,
) -> Outcome:
    """Train the network of `widths`, from scratch or from the weights of `start`.

    Several trainings may run at once in threads of one process.

    Args:
        arch: the family of networks.
        widths: L integers, one per searched layer.
        task: batches, loss and score; or images with labels.
        settings: epochs, learning rate, device and so on.
        progress: receives steps and messages; None for silence.
        checkpoint: a file from which the same call continues after an interruption. It is written
            every 30 seconds and removed at the end.
        start: a network of these widths, such as `arch.inherit` makes; it does not change.
        teacher: a trained network for `settings.distillation`; unused without it.
        on_epoch: called after each epoch with its number, from 1, and its metrics. An exception,
            such as Optuna's TrialPruned, ends the training.

    Returns:
        Scores (for images accuracies in percent), losses, seconds and the trained network.

    Raises:
        NonFiniteLossError: if the loss or the weights become NaN or infinite.
        OutOfMemoryError: if a batch does not fit the device.
        NsoptError: for invalid widths, a `start` of other ones, a task without a loss or score, or
            a checkpoint that is of another training or cannot be written.
        KeyboardInterrupt: with `settings.keep_best`, `Interrupted` with the best weights so far.

    Examples:
        >>> settings = nsopt.TrainSettings(epochs=2, batch_size=32, lr=0.02)
        >>> nsopt.train(arch, arch.base_widths, nsopt.load_data("digits"), settings).test_accuracy
    """
    widths = arch.check_widths(widths)
    check_outputs(arch, task)
    check_training(arch, task)
    if start is not None and shapes_of(unwrapped(start).state_dict()) != arch.shapes(widths):
        raise NsoptError("start is no network of these widths: give that of arch.inherit")
    if checkpoint is not None:
        check_writable(checkpoint.parent, "checkpoint=")
        if checkpoint.is_dir():
            raise NsoptError(f"checkpoint={checkpoint} is a folder: name a file")
    compute = resolve_compute(settings.device, settings.precision)
    if checkpoint is None:  # what continues must not change its precision
        compute = choose_compute(settings, arch, widths, task)
    return train_configuration(
        arch,
        widths,
        supervise(task, settings, compute),
        settings,
        compute,
        progress or Silent(),
        checkpoint,
        start=None if start is None else lambda: copy_model(unwrapped(start)),
        teacher=None if teacher is None else copy_model(unwrapped(teacher)),
        after_epoch=lambda epochs: on_epoch(len(epochs), epochs[-1]),
        origin={
            name: weights_checksum(model)
            for name, model in (("start", start), ("teacher", teacher))
            if checkpoint is not None and model is not None
        },
    )


def train_configuration(
    arch: Architecture,
    widths: tuple[int, ...],
    supervision: Supervision,
    settings: TrainSettings,
    compute: Compute,
    progress: Progress,
    checkpoint: Path | None,
    name: str = "training",
    start: Callable[[], nn.Module] | None = None,
    teacher: nn.Module | None = None,
    after_epoch: Callable[[Sequence[Epoch]], None] = lambda epochs: None,
    origin: Mapping[str, Any] = MappingProxyType({}),
) -> Outcome:
    """Train the network of `widths` on a task on the device of `compute`.

    Studies, tunings and `compress` use this.

    Args:
        checkpoint, teacher: see `train`.
        name: of the training, for `progress`.
        start: makes the network to start from, by default a newly initialised one.
        after_epoch: gets the epochs so far, and may end the training for good with an exception.
        origin: what the checkpoint depends on besides the other arguments.
    """
    if not settings.epochs:
        raise NsoptError("epochs must be at least 1: only nsopt.compress works without training")
    identity = identify_training(arch, widths, supervision, settings) if checkpoint else {}
    file = Checkpoint(checkpoint, {**identity, **origin})
    limit = explain_out_of_memory(compute.device, supervision.batch_size(settings.batch_size))
    with limit:
        saved = file.load(compute.device)
        with use_seed(settings.seed, compute.device):
            model = place(start() if start else arch.build(widths), compute.device, arch.layout)
        if stuck := free_statistics(model):
            progress.message(f"{stuck} BatchNorms of momentum 0 follow the data from now on")
        if teacher is not None:
            teacher = place(teacher, compute.device, arch.layout).eval()
        decay = settings.averaging
        ema = None if decay is None else EMA(model, decay)
        with fast_kernels(model):
            training = _Training(model, supervision.renew(), settings, compute, ema, teacher)
            if saved is not None:
                training.restore(saved)
            elif settings.keep_best:
                training.score_start()
            progress.start(name, training.length)
            for _ in training.epochs:
                progress.advance()
            try:
                while len(training.epochs) < training.length:
                    _advance(training, file, progress, after_epoch)
            except KeyboardInterrupt:
                if not settings.keep_best:
                    raise
                raise Interrupted(training.end(widths), training.length) from None
    file.remove()
    return training.end(widths)


def _advance(
    training: "_Training",
    file: Checkpoint,
    progress: Progress,
    after_epoch: Callable[[Sequence[Epoch]], None],
) -> None:
    """Do one small step; report an epoch that it ends; save the state when it is time."""
    done = len(training.epochs)
    with file.remove_on(NonFiniteLossError):
        training.advance()
    if len(training.epochs) > done:
        latest = training.epochs[-1]
        progress.advance(f"loss {latest.train_loss:.3f}, validation {latest.score:.4g}")
        with file.remove_on(Exception):
            after_epoch(training.epochs)
    file.save_when_due(training.state)


def identify_training(
    arch: Architecture, widths: Sequence[int], supervision: Supervision, settings: TrainSettings
) -> dict[str, Any]:
    """Return everything that a training depends on, which identifies its checkpoint and weights."""
    network = {
        "arch": arch.name,
        "widths": list(widths),
        "classes": arch.num_classes,
        "code": identify_code(arch),
    }
    kept = settings.model_dump(mode="json", exclude={"device"})
    return network | {"data": supervision.fingerprint(), "training": kept}


@dataclass(eq=False)
class _Training:
    """One training as a sequence of small steps, between which its state can be saved."""

    _model: nn.Module
    _supervision: Supervision
    _settings: TrainSettings
    _compute: Compute
    _ema: EMA | None
    _teacher: nn.Module | None

    def __post_init__(self) -> None:
        settings, compute = self._settings, self._compute
        self._randomness = OwnRandomState(settings.seed, compute.device)
        self._optimizer = make_optimizer(self._model, settings)
        self._data = self._supervision.batches(settings.batch_size, settings.seed)
        per_epoch = self._data.per_epoch
        self.length = max(settings.epochs, -(-(settings.least_steps or 0) // per_epoch))
        longer = settings.updated(epochs=self.length)
        self._schedule = make_schedule(self._optimizer, longer, per_epoch)
        self._evaluations = evaluations_of(self._supervision, compute)
        self._batch, self._examples = 0, 0
        self._loss = torch.zeros((), device=compute.device)
        self._started = time.perf_counter()
        self._best: tuple[Epoch, State] | None = None
        self.epochs: list[Epoch] = []

    def score_start(self) -> None:
        """Score the weights that training begins with, which may stay the best ones."""
        with self._randomness.in_use():
            for evaluation in self._evaluations.values():
                evaluate(evaluation, self._evaluated)
        self._keep_if_best(self._take_scores(math.nan))

    def end(self, widths: tuple[int, ...]) -> Outcome:
        """Return the network with the weights to keep: the last ones, or the best ones so far."""
        model = self._evaluated.eval()
        if self._best is None:
            kept = self.epochs[-1]
        else:
            kept, weights = self._best
            load_full_state(model, weights)
        return Outcome(widths, tuple(self.epochs), self.seconds, kept, model)

    def _keep_if_best(self, epoch: Epoch) -> None:
        if self._settings.keep_best and (self._best is None or epoch.score >= self._best[0].score):
            self._best = epoch, copy.deepcopy(full_state(self._evaluated))

    def _take_scores(self, train_loss: float) -> Epoch:
        """Return an epoch with the scores, and forget them."""
        epoch = Epoch(train_loss, *(evaluation.score for evaluation in self._evaluations.values()))
        for evaluation in self._evaluations.values():
            evaluation.start_over()
        return epoch

    @property
    def seconds(self) -> float:
        """Spent on this training so far, also before interruptions."""
        wait_for(self._compute.device)
        return time.perf_counter() - self._started

    def advance(self) -> None:
        """Train, validate or test on the next batch; the epoch ends after the last one.

        Raises NonFiniteLossError if the epoch's mean loss, its last weights or their score are not
        finite.
        """
        with self._randomness.in_use():
            if self._batch < self._data.per_epoch:
                self._train_batch()
                if self._batch == self._data.per_epoch:
                    self._check_finite()
            else:
                self._find_unfinished()[0].advance(self._evaluated)
            if not self._find_unfinished():
                self._end_epoch()

    def _find_unfinished(self) -> list[Evaluation]:
        return [evaluation for evaluation in self._evaluations.values() if not evaluation.complete]

    @property
    def _evaluated(self) -> nn.Module:
        """The network to evaluate: the model, or the average of its weights."""
        return self._model if self._ema is None else self._ema.module

    def _train_batch(self) -> None:
        self._model.train()
        inputs, targets = self._data.next()
        value, count = self._choose_loss(inputs), count_examples(inputs)
        loss = train_step(self._model, self._optimizer, inputs, targets, self._compute, value)
        self._schedule.step()
        if self._ema is not None:
            self._ema.update(self._model)
        self._loss += loss * count
        self._examples += count
        self._batch += 1

    def _choose_loss(self, inputs: Any) -> Loss:
        """Return the loss for a batch, which may depend on the teacher's outputs."""
        weight = self._settings.distillation
        if weight is None:
            return self._supervision.loss
        if self._teacher is None:
            raise NsoptError("distillation needs a teacher: train(..., teacher=...)")
        with torch.no_grad(), self._compute.autocast():
            outputs = call_network(self._teacher, inputs_for(self._teacher, inputs))
        return self._supervision.distil(widen(outputs), weight)

    def _check_finite(self) -> None:
        """Check a loss, and the weights: those of an epoch's last step have no loss yet."""
        trained = [tensor for tensor in self._model.parameters() if tensor.requires_grad]
        if not torch.isfinite(self._loss):
            found = f"loss became {float(self._loss)}"
        elif not all(tensor.isfinite().all() for tensor in trained):
            found = "weights became NaN or infinite"
        else:
            return
        raise NonFiniteLossError(
            f"the {found} in epoch {len(self.epochs) + 1}: "
            f"try a learning rate below {self._settings.lr:g}"
        )

    def _end_epoch(self) -> None:
        mean_loss = float(self._loss) / self._examples
        self.epochs.append(self._take_scores(mean_loss))
        self._keep_if_best(self.epochs[-1])
        self._batch, self._examples = 0, 0
        self._loss = torch.zeros_like(self._loss)

    def _list_parts(self) -> dict[str, Resumable]:
        parts = {"data": self._data, "supervision": self._supervision, "random": self._randomness}
        return {**parts, **self._evaluations}

    def state(self) -> State:
        """Return the state from which `restore` continues with the same numbers."""
        return {
            "model": full_state(self._model),
            "ema": None if self._ema is None else full_state(self._ema),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "batch": self._batch,
            "examples": self._examples,
            "loss": self._loss,
            "epochs": [list(astuple(epoch)) for epoch in self.epochs],
            "best": None if self._best is None else [list(astuple(self._best[0])), self._best[1]],
            "seconds": self.seconds,
            **{name: part.state() for name, part in self._list_parts().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        load_full_state(self._model, state["model"])
        if self._ema is not None:
            load_full_state(self._ema, state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        for name, part in self._list_parts().items():
            part.restore(state[name])
        self._batch, self._examples, self._loss = state["batch"], state["examples"], state["loss"]
        self.epochs = [Epoch(*numbers) for numbers in state["epochs"]]
        if state["best"] is not None:
            self._best = Epoch(*state["best"][0]), state["best"][1]
        self._started = time.perf_counter() - state["seconds"]
