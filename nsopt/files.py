"""Files that are written whole or not at all, and the folder of those we can make again."""

import os
import platform
import tempfile
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from nsopt.errors import NsoptError

_UNFINISHED = ".part"


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replace the file at `path` in one step; a crash or an error leaves the one before.

    The content is on the disk when this returns.
    """
    remove_unfinished(path)
    unfinished = path.with_name(_own_name(path.name, os.getpid()))
    try:
        unfinished.unlink(missing_ok=True)
        with _created(unfinished) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove_unfinished(path: Path) -> None:
    """Delete what processes of this machine that were killed had written of `path`."""
    for unfinished in path.parent.glob(_own_name(escape(path.name), "*")):
        process = unfinished.name.removesuffix(_UNFINISHED).rpartition(".")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            unfinished.unlink(missing_ok=True)


def check_writable(folder: Path, option: str) -> None:
    """NsoptError if no file can be made in `folder`, which need not be there; leaves no trace.

    option: the option that named it.
    """
    try:
        nearest = next(path for path in (folder, *folder.parents) if _is_there(path))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise NsoptError(
            f"nothing can be written in {folder} ({reason}): give another {option}"
        ) from None


def _created(path: Path) -> BinaryIO:
    """A new file, in a folder that is made for it, also if another process just tidies it away."""
    attempts = 3
    while True:
        attempts -= 1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except FileNotFoundError:
            if not attempts:
                raise


def _is_there(path: Path) -> bool:
    """OSError where a path leads through a file, say."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _own_name(name: str, process: int | str) -> str:
    """Of the unfinished file of a process. Machines that share a folder number theirs alike."""
    return f"{name}.{platform.node()}.{process}{_UNFINISHED}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder of what nsopt can make again: `$XDG_CACHE_HOME/nsopt`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "nsopt"
