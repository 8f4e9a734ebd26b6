"""The batches of a user's loader, repeatable from a seed."""

import random
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from nsopt.compute.device import OwnRandomState
from nsopt.errors import NsoptError
from nsopt.inputs import check_numbers, tensors_in
from nsopt.isolation import HostState, host_state, restore_host_state

_LABELS = "labels"


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    A batch is a pair of inputs and targets; a dictionary with `labels` is such a pair, too: the
    labels are the targets, and its other entries the inputs. A tensor, or a dictionary without
    `labels`, is inputs alone: enough for work without labels. Its targets are None. A list or tuple
    of one of these, as a DataLoader of a single tensor makes it, is what it holds.

    Raises:
        NsoptError: for anything else.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, list | tuple) and len(batch) == 1:
        return split_batch(batch[0])
    if isinstance(batch, Mapping):
        return {k: value for k, value in batch.items() if k != _LABELS}, batch.get(_LABELS)
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise NsoptError(
            "every batch of the loader must be a pair of inputs and targets, or a dictionary with "
            "`labels`, which collate_fn may return; without labels, a tensor of inputs is enough"
        )
    inputs, targets = batch
    if isinstance(inputs, Mapping):
        return dict(inputs), targets
    return tuple(inputs) if isinstance(inputs, list) else inputs, targets


def count_batches(loader: Any) -> int:
    """Return the number of batches in an epoch.

    Raises:
        NsoptError: if the loader has no length, no batches, or can be read only once.
    """
    if isinstance(loader, Tensor):
        raise NsoptError("the loader is a tensor: give a list of batches, such as x.split(64)")
    try:
        count = -1 if isinstance(loader, Iterator) else len(loader)
    except TypeError:  # it has none, such as a DataLoader over an IterableDataset
        count = -1
    if count < 0:
        raise NsoptError(
            "the loader must have a length and restart in every epoch: give a DataLoader of a "
            "dataset with a length, a list of batches, or for a stream an object with __len__ and "
            "__iter__"
        )
    if not count:
        raise NsoptError("the loader has no batches: give a DataLoader, or a list")
    return count


def _list_generators(loader: Any) -> list[torch.Generator]:
    """Return the generators of a loader and of its samplers, each once."""
    owners = loader, *_list_samplers(loader)
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _list_samplers(loader: Any) -> list[Any]:
    sampler, batched = (getattr(loader, name, None) for name in ("sampler", "batch_sampler"))
    return [sampler, batched, getattr(batched, "sampler", None)]


def _read_states(generators: Sequence[torch.Generator]) -> tuple[HostState, list[Tensor]]:
    """Return the random states of Python, of NumPy and of these generators."""
    return host_state(), [generator.get_state() for generator in generators]


def _set_states(
    generators: Sequence[torch.Generator], states: tuple[HostState, list[Tensor]]
) -> None:
    restore_host_state(states[0])
    for generator, state in zip(generators, states[1], strict=True):
        generator.set_state(state)


class LoaderBatches:
    """Repeats a loader.

    Random numbers that it draws from torch, Python, NumPy or a generator of its own or of its
    sampler, as a shuffled DataLoader does, follow from `seed`. A resumed search therefore gets the
    same batches. Outside, these random numbers do not change; a list, which draws none, leaves
    those of Python and NumPy as seeded. A sampler with `set_epoch`, as that of several processes,
    shuffles by its own seed and by the number of the epoch.
    """

    def __init__(self, loader: Any, seed: int, device: torch.device) -> None:
        self._loader = loader
        self._device = device
        self._randomness = OwnRandomState(seed, torch.device("cpu"))
        self.per_epoch = count_batches(loader)
        self._generators = _list_generators(loader)
        self._states = _read_states(self._generators)
        self._epoch = self._position = 0
        self._epoch_start = self._randomness.state()
        self._iterator: Iterator[Any] | None = None  # begun by the first batch, not by a count

    def next(self) -> tuple[Any, Any]:
        if self._position == self.per_epoch:
            self._epoch += 1
            self._iterator = None
        iterator = self._start_epoch() if self._iterator is None else self._iterator
        batch = split_batch(self._read(iterator))
        check_numbers(tensors_in(batch[0]), "a batch of the task")
        check_numbers([t for t in tensors_in(batch[1]) if t.is_meta], "a target of the task")
        inputs, targets = tree_map_only(Tensor, self._move, batch)
        return inputs, targets

    def _move(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device, without waiting if its memory is pinned.

        Tensors made in inference mode are copied: autograd refuses them.
        """
        if tensor.is_inference():
            tensor = tensor.clone()
        return tensor.to(self._device, non_blocking=tensor.is_pinned())

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "epoch_start": self._epoch_start, "position": self._position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._epoch = state["epoch"]
        self._randomness.restore(state["epoch_start"])
        iterator = self._start_epoch()
        for _ in range(state["position"]):
            self._read(iterator)

    def _start_epoch(self) -> Iterator[Any]:
        self._epoch_start = self._randomness.state()
        self._position = 0
        seed = zlib.crc32(self._epoch_start["cpu"].numpy().tobytes())
        with self._draw():
            random.seed(seed)
            np.random.seed(seed)
            for sampler in _list_samplers(self._loader):
                if hasattr(sampler, "set_epoch"):  # that of several processes shuffles by it
                    sampler.set_epoch(self._epoch)
            for generator in self._generators:
                generator.manual_seed(int(torch.randint(2**62, ())))
            if getattr(self._loader, "persistent_workers", False):
                self._loader._iterator = None  # only new workers draw by the seed
            self._iterator = iter(self._loader)
        return self._iterator

    @contextmanager
    def _draw(self) -> Iterator[None]:
        """Make the loader draw from its own random numbers inside the block."""
        if type(self._loader) in (list, tuple):  # they draw none
            yield
            return
        with self._randomness.in_use():
            outside = _read_states(self._generators)
            _set_states(self._generators, self._states)
            try:
                yield
            finally:
                self._states = _read_states(self._generators)
                _set_states(self._generators, outside)

    def _read(self, iterator: Iterator[Any]) -> Any:
        with self._draw():
            batch = next(iterator, None)
        if batch is None:
            raise NsoptError(
                f"the loader says that it has {self.per_epoch} batches, but ends after "
                f"{self._position}: give one that restarts in each epoch, as a DataLoader does"
            )
        self._position += 1
        return batch
