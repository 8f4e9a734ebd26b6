"""A file from which an interrupted run goes on."""

import hashlib
import io
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nsopt.compute.out_of_memory import memory_for
from nsopt.errors import NsoptError
from nsopt.files import remove_unfinished, write_whole
from nsopt.settings import differences

State = dict[str, Any]
SECONDS_BETWEEN = 30.0  # two writes of `save_when_due`, at least
_CHECKSUM = b"nsopt checkpoint, sha256 "  # begins the first line; what torch wrote follows it


class Checkpoint:
    """The state of one run: tensors, numbers, text, and dicts and lists of them.

    It is written in one step, so that an interruption leaves the one before, with a checksum of its
    content, and belongs to the run that `identity` describes (JSON-safe): loading it for another is
    an error.

    Args:
        path: where it lies; None keeps nothing.
        identity: everything that the state depends on.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._identity = dict(identity)
        self._saved_at = time.monotonic()

    def load(self, device: torch.device) -> State | None:
        """The state that was saved last, on `device`; None if there is none.

        Raises NsoptError if another run saved it, or if it cannot be read.
        """
        if self._path is None or not self._path.is_file():
            return None
        try:
            content = io.BytesIO(_checked(self._path.read_bytes()))
            stored = torch.load(content, map_location="cpu", weights_only=True)
            identity, state = stored["identity"], stored["state"]
        except Exception:  # whatever a damaged file makes torch raise
            raise NsoptError(
                f"checkpoint {self._path} cannot be read: delete it to start over"
            ) from None
        found = differences(self._identity, identity)
        if found:
            raise NsoptError(
                f"checkpoint {self._path} was written by other settings ({'; '.join(found)}): "
                "repeat those, or delete it to start over"
            )
        with memory_for(device, f"checkpoint {self._path}"):
            moved: State = _moved(state, device)
        return moved

    def save_when_due(self, state: Callable[[], State]) -> None:
        """Save what `state` returns if the last time is long enough ago."""
        if self._path is not None and time.monotonic() - self._saved_at >= SECONDS_BETWEEN:
            self.save(state())

    def save(self, state: State) -> None:
        """Save `state` now."""
        if self._path is None:
            return
        content = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, content)
        written = content.getvalue()
        write_whole(self._path, _CHECKSUM + _digest(written) + b"\n" + written)
        self._saved_at = time.monotonic()

    @contextmanager
    def removed_by(self, error: type[Exception]) -> Iterator[None]:
        """Leave no file of a run that `error` ends for good."""
        try:
            yield
        except error:
            self.remove()
            raise

    def remove(self) -> None:
        """Delete the file, once nothing needs it any more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            remove_unfinished(self._path)


def weights_checksum(model: nn.Module) -> int:
    """What tells the weights of a network from others, for an identity."""
    content = 0
    for tensor in model.state_dict().values():
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        content = zlib.crc32(values.numpy().data, content)
    return content


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints that lie in `folder`, which must all belong to what has ended."""
    for path in folder.glob("*.pt*"):
        path.unlink(missing_ok=True)


def remove_empty_folders(root: Path) -> None:
    """Delete the folders at and below `root` that hold nothing."""
    folders = sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True)
    for folder in [*folders, root]:
        with suppress(OSError):
            folder.rmdir()


def _checked(file: bytes) -> bytes:
    """What torch wrote of the file of a checkpoint; ValueError if it has changed since.

    A file that begins otherwise is of an older version, which kept no checksum.
    """
    if not file.startswith(_CHECKSUM):
        return file
    line, _, written = file.partition(b"\n")
    if line != _CHECKSUM + _digest(written):
        raise ValueError("checksum")
    return written


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _moved(state: Any, device: torch.device) -> Any:
    """`state` with its tensors on `device`; those of a generator, uint8, stay on the CPU."""
    if isinstance(state, torch.Tensor):
        return state if state.dtype == torch.uint8 else state.to(device)
    if isinstance(state, dict):
        return {name: _moved(value, device) for name, value in state.items()}
    if isinstance(state, list):
        return [_moved(value, device) for value in state]
    return state
