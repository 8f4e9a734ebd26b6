"""What a network trains on: mini-batches, and a loss of its outputs."""

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from nsopt.compute.random_state import OwnRandomState
from nsopt.data.augmentation import TrainingBatches
from nsopt.data.images import Splits
from nsopt.errors import NsoptError
from nsopt.training.step import Loss


class Batches(Protocol):
    """Endless mini-batches, `per_epoch` of them in each epoch."""

    per_epoch: int

    def next(self) -> tuple[Any, Any]:
        """Return inputs and targets, on the device of the network."""

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs to continue with the next batch."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""


class Supervision(Protocol):
    """What a search trains a network on."""

    def batches(self, batch_size: int, seed: int) -> Batches:
        """Return mini-batches whose order and augmentation follow from `seed`."""

    def batch_size(self, asked: int) -> int | None:
        """Return the size of the batches for a requested size; None if a loader decides it."""

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean loss over the examples of a batch. Outputs are float32 or wider."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what distinguishes it from others, for the identity of a checkpoint."""


@dataclass(frozen=True, eq=False)
class Classification:
    """Images of `splits`, augmented by `resized_crop` (`SgdSettings`), and their cross-entropy."""

    splits: Splits
    resized_crop: float | None = None

    def batches(self, batch_size: int, seed: int) -> TrainingBatches:
        return TrainingBatches(self.splits, batch_size, seed, self.resized_crop)

    def batch_size(self, asked: int) -> int:
        return asked

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets)

    def fingerprint(self) -> dict[str, Any]:
        return dict(self.splits.fingerprint)


@dataclass(frozen=True, eq=False)
class OwnBatches:
    """Batches and loss of a user.

    Attributes:
        loader: yields pairs of inputs and targets, has a length, and restarts in every epoch, such
            as a DataLoader or a list. Inputs are a tensor or a tuple of arguments for `forward`.
            The loader decides the size of batches.
        own_loss: takes outputs and targets.
        device: of the network.
    """

    loader: Iterable[Any]
    own_loss: Loss
    device: torch.device

    def __post_init__(self) -> None:
        if not isinstance(self.loader, Sized) or isinstance(self.loader, Iterator):
            raise NsoptError(
                "the loader must have a length and restart in every epoch: "
                "give a DataLoader or a list of batches"
            )
        if not len(self.loader):
            raise NsoptError("the loader has no batches")

    def batches(self, batch_size: int, seed: int) -> Batches:
        return _LoaderBatches(self.loader, seed, self.device)

    def batch_size(self, asked: int) -> None:
        return None

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        value = self.own_loss(outputs, targets)
        if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
            raise NsoptError("the loss must be a tensor of one number that depends on the outputs")
        return value

    def fingerprint(self) -> dict[str, Any]:
        assert isinstance(self.loader, Sized)
        return {"batches": len(self.loader), "loss": getattr(self.own_loss, "__qualname__", "")}


class _LoaderBatches:
    """Repeats a loader.

    Random numbers that it draws from torch or its own generator, as a shuffled DataLoader does,
    follow from `seed`. A resumed search therefore gets the same batches.
    """

    def __init__(self, loader: Any, seed: int, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self._randomness = OwnRandomState(seed, torch.device("cpu"))
        self.per_epoch = len(loader)
        self._start_epoch()

    def next(self) -> tuple[Any, Any]:
        if self._position == self.per_epoch:
            self._start_epoch()
        batch = self._read()
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise NsoptError("every batch of the loader must be a pair of inputs and targets")
        inputs, targets = tree_map_only(Tensor, self._move, tuple(batch))
        return inputs, targets

    def _move(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device, without waiting if its memory is pinned."""
        return tensor.to(self._device, non_blocking=tensor.is_pinned())

    def state(self) -> dict[str, Any]:
        return {"epoch_start": self._epoch_start, "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._randomness.restore(state["epoch_start"])
        self._start_epoch()
        for _ in range(state["position"]):
            self._read()

    def _start_epoch(self) -> None:
        self._epoch_start = self._randomness.state()
        self._position = 0
        with self._randomness.in_use():
            own = getattr(self._loader, "generator", None)
            if isinstance(own, torch.Generator):
                own.manual_seed(int(torch.randint(2**62, ())))
            self._iterator = iter(self._loader)

    def _read(self) -> Any:
        with self._randomness.in_use():
            batch = next(self._iterator, None)
        if batch is None:
            raise NsoptError(
                f"the loader says that it has {self.per_epoch} batches, but ends after "
                f"{self._position}"
            )
        self._position += 1
        return batch
