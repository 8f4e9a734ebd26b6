"""A task: what a network is for."""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import keystr, tree_leaves, tree_leaves_with_path
from torch.utils.data import Dataset, IterableDataset

from nsopt.compute.checkpoint import CodeReader, full_state, load_full_state
from nsopt.compute.device import Compute
from nsopt.data.source import Source
from nsopt.errors import NonFiniteLossError, NsoptError, shorten
from nsopt.inputs import checksum_of, tensors_in
from nsopt.isolation import public
from nsopt.settings import check_name
from nsopt.tasks.agreement import measure_variances, relative_distance
from nsopt.tasks.batches import LoaderBatches, count_batches
from nsopt.tasks.supervision import Loss
from nsopt.tracing.originals import copy_model

Score = Callable[[nn.Module], Any]
Distance = Callable[[Any, Any], Tensor]
_READ = 8  # batches that show which sizes of inputs vary
_ARGUMENTS = {  # of the functions of a task
    "loss": ("outputs", "targets"),
    "score": ("model",),
    "test": ("model",),
    "distance": ("outputs", "outputs_of_teacher"),
    "trainer": ("model", "task", "context"),
}


@dataclass(frozen=True, eq=False)
class Task:
    """What a network is for: its batches, its loss and its score.

    Attributes:
        train: yields the batches of an epoch, has a length, and restarts in every epoch, such
            as a DataLoader or a list. A batch is a pair of inputs and targets, where inputs are a
            tensor, a tuple of arguments, or a dictionary of keyword arguments; a dictionary with
            `labels` is such a pair, too: the labels are the targets, and its other entries the
            inputs.
        loss: `loss(outputs, targets)`, the mean over a batch, which training minimises. Every
            training has a copy of its own of a loss that is a module, whose buffers may change;
            its parameters do not train.
        score: `score(model)`, a number for a network in evaluation mode on the device, from
            data that training does not use; higher is better. It selects networks.
        test: likewise, from data that only reports use. Without it, reports have no test
            column.
        name: of the task, in the names of studies.
        score_name: of the score, in tables and figures; with its unit.
        distance: `distance(outputs, outputs_of_teacher)`, one differentiable number per
            example: how far two networks' outputs are apart. With it, nsopt ranks widths by their
            distance from the trained network; without it, by the score. Distillation needs none:
            its default is the squared difference of all floating outputs, relative to their
            variance.
        example: inputs of a batch, by which nsopt traces and times networks; by default those
            of the first batch.
        trainer: `trainer(model, task, context)` returns the trained network: used in place of
            nsopt's own fine-tuning.
        version: results of different versions are never mixed. Functions are known by their code
            and what it reads, and data by lists, arrays, datasets of tensors or files' names, and
            the first batch; change the version when something else changes.
        source: how other processes load it again, `package.module:function`; None for a task that
            nsopt did not load.

    Raises:
        NsoptError: for a loader without a length or batches, or functions that are none.

    Examples:
        >>> batches = [(torch.rand(8, 4), torch.rand(8, 2)) for _ in range(10)]
        >>> task = nsopt.Task(batches, torch.nn.functional.mse_loss)
        >>> task.inputs.shape
    """

    train: Iterable[Any]
    loss: Loss | None = None
    score: Score | None = None
    test: Score | None = None
    name: str = "task"
    score_name: str = "score"
    distance: Distance | None = None
    example: Any = None
    trainer: Callable[[nn.Module, "Task", Any], nn.Module] | None = None
    version: str | int | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        count_batches(self.train)
        for name, arguments in _ARGUMENTS.items():
            if (function := getattr(self, name)) is not None:
                _check_function(name, function, arguments)
        check_name("task", self.name)
        if not isinstance(self.score_name, str) or not self.score_name:
            raise NsoptError(f"score_name of a task must be a word, not {shorten(self.score_name)}")
        if not isinstance(self.version, str | int | float | None):
            raise NsoptError(
                f"version of a task must be text or a number, not {shorten(self.version)}"
            )

    @cached_property
    @public
    def inputs(self) -> Any:
        """Inputs of a batch on the CPU: the example, or those of the first batch at seed 0."""
        return self.first_batch[0] if self.example is None else self.example

    @cached_property
    @public
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the task: its data, the first batch at seed 0, functions and version.

        Networks are timed with its inputs, whose kinds and shapes therefore count.
        """
        first = self.first_batch  # checked before anything is read
        functions = {
            name: identify(function, self._reader)
            for name in _ARGUMENTS
            if (function := getattr(self, name)) is not None
        }
        return {
            "data": self._reader.read(self.train),
            "batches": count_batches(self.train),
            "first_batch": checksum_of(_read_numbers(first)),
            "inputs": [f"{value.dtype} {list(value.shape)}" for value in tensors_in(self.inputs)],
            "version": self.version,
            **functions,
        }

    @cached_property
    def _reader(self) -> CodeReader:
        return CodeReader()

    @property
    def unread(self) -> list[str]:
        """What may change without another fingerprint, by type; nothing with a version."""
        return (
            [] if self.version is not None or not self.fingerprint else sorted(self._reader.unread)
        )

    @cached_property
    @public
    def first_inputs(self) -> list[Any]:
        """Inputs of the first batches at seed 0, at most 8, of the same kind as `inputs`.

        Their sizes may differ: what differs is a variable of exported files.
        """
        loader = LoaderBatches(self.train, 0, torch.device("cpu"))
        batches = [loader.next()[0] for _ in range(min(_READ, loader.per_epoch))]
        kind = _describe_kind(self.inputs)
        return [inputs for inputs in batches if _describe_kind(inputs) == kind]

    @cached_property
    @public
    def first_batch(self) -> tuple[Any, Any]:
        """Inputs and targets of the first batch at seed 0, on the CPU."""
        inputs, targets = LoaderBatches(self.train, 0, torch.device("cpu")).next()
        if isinstance(self.train, Dataset) and not isinstance(self.train, IterableDataset):
            raise NsoptError(
                "train is a Dataset: give a DataLoader(dataset, batch_size=64), or batch_size=None "
                "if its items are batches"
            )
        if self.example is None and not tensors_in(inputs):
            raise NsoptError(
                "the inputs of a batch hold no tensor: give tensors, as torch.from_numpy makes of "
                "arrays, or a tuple or dictionary of them, which collate_fn may return"
            )
        return inputs, targets


def _read_numbers(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch; arrays, numbers and text as their bytes."""
    for value in tree_leaves(batch):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, np.ndarray) and value.dtype.hasobject:
            yield from _read_numbers(value.tolist())
        elif isinstance(value, np.ndarray):
            yield torch.tensor(np.frombuffer(value.tobytes(), np.uint8))
        elif isinstance(value, bool | int | float | complex | str | bytes | np.generic):
            yield torch.tensor(np.frombuffer(repr(value).encode(), np.uint8))


def _describe_kind(inputs: Any) -> list[tuple[str, str]]:
    """Return what batches of one kind share: all but the sizes and values of their tensors."""
    return sorted(
        (keystr(path), f"{v.dtype} {v.ndim}" if isinstance(v, Tensor) else repr(v))
        for path, v in tree_leaves_with_path(inputs)
    )


def _check_function(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    """Raise NsoptError if an attribute of a task is no function of these arguments."""
    if isinstance(function, type):
        raise NsoptError(
            f"{name} of a task must be a function: call the class, {function.__name__}()"
        )
    if not callable(function):
        raise NsoptError(f"{name} of a task must be a function, not {shorten(function)}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # functions of C may have none
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        names = ", ".join(arguments)
        raise NsoptError(f"{name} of a task must take ({names}), and cannot: {error}") from None


def name_function(function: Callable[..., Any]) -> str:
    """Return the name by which a function of the user is recognised."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def identify(function: Callable[..., Any], reader: CodeReader) -> str:
    """Return the name of a function and the checksum of its code."""
    return f"{name_function(function)} ({reader.read(function):08x})"


class ScoreEvaluation:
    """Scores networks by a user's function, in one step."""

    def __init__(self, function: Score) -> None:
        self._function = function
        self.start_over()

    @property
    def complete(self) -> bool:
        return not math.isnan(self.score)

    def advance(self, model: nn.Module) -> None:
        """Score a network.

        Raises:
            NonFiniteLossError: if the score is NaN or infinite, as after a training that diverged.
            NsoptError: if it is no number.
        """
        with torch.no_grad():
            value = self._function(model.eval())
        try:
            if "complex" in str(getattr(value, "dtype", "")):
                raise TypeError
            self.score = float(value)
        except Exception:  # of tensors without values, and others that hold no single number
            raise NsoptError(f"the score must be a finite number, not {shorten(value)}") from None
        if not math.isfinite(self.score):
            raise NonFiniteLossError(
                f"the score must be a finite number, not {self.score}: after a training, try a "
                "lower learning rate"
            )

    def start_over(self) -> None:
        self.score = math.nan

    def state(self) -> dict[str, Any]:
        return {"score": self.score}

    def restore(self, state: Any) -> None:
        self.score = state["score"]


@dataclass(frozen=True, eq=False)
class TaskSupervision:
    """A user's task on a device. Raises NsoptError for what a command needs and the task lacks."""

    task: Task
    device: torch.device
    module: nn.Module | None = None  # a copy of a loss that is one, for one training

    def renew(self) -> "TaskSupervision":
        if not isinstance(self.task.loss, nn.Module):
            return self
        loss = copy_model(self.task.loss)
        if any(map(is_lazy, loss.parameters())):
            raise NsoptError(
                f"{type(loss).__name__} in loss= has parameters without a size: call it once on "
                "outputs and targets before you give it"
            )
        loss.requires_grad_(False).to(self.device)
        return replace(self, module=loss)

    def state(self) -> dict[str, Any]:
        return {} if self.module is None else full_state(self.module)

    def restore(self, state: Mapping[str, Any]) -> None:
        if self.module is not None:
            load_full_state(self.module, dict(state))
            self.module.to(self.device)

    def batches(self, batch_size: int, seed: int) -> LoaderBatches:
        return LoaderBatches(self.task.train, seed, self.device)

    def batch_size(self, requested: int) -> None:
        return None

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        function = self.task.loss if self.module is None else self.module
        if function is None:
            raise NsoptError("training needs a loss: nsopt.Task(..., loss=...)")
        if targets is None:
            raise NsoptError(
                "training needs targets: give batches of inputs and targets, such as (x, x); any "
                "tensor, if the loss needs none"
            )
        value = function(outputs, targets)
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided
        is_dense = is_dense and not value.is_meta and not value.is_nested
        if not (is_dense and value.numel() == 1 and value.requires_grad) or value.is_complex():
            kind = f"{tuple(value.shape)}" if is_dense else type(value).__name__
            raise NsoptError(
                "the loss must be a tensor of one number that depends on the outputs (got "
                f"{kind}): return the mean over the batch alone, with its gradient"
            )
        return value.squeeze()

    def distil(self, outputs_of_teacher: Any, weight: float) -> Loss:
        distance = self.task.distance
        if distance is None:  # numbers that are equal in the whole batch have no scale
            known = measure_variances([outputs_of_teacher])
            scales = [variance.where(variance > 0, math.inf) for variance in known]
            distance = partial(relative_distance, variances=scales)

        def loss(outputs: Any, targets: Any) -> Tensor:
            soft = distance(outputs, outputs_of_teacher).mean()
            if self.task.loss is None:
                return soft
            hard = self.loss(outputs, targets)
            return torch.lerp(hard, soft.to(hard.dtype), weight)

        return loss

    def validation(self, compute: Compute) -> ScoreEvaluation:
        if self.task.score is None:
            raise NsoptError("training needs a score: nsopt.Task(..., score=...)")
        return ScoreEvaluation(self.task.score)

    def test(self, compute: Compute) -> ScoreEvaluation | None:
        return None if self.task.test is None else ScoreEvaluation(self.task.test)

    def fingerprint(self) -> dict[str, Any]:
        return self.task.fingerprint
