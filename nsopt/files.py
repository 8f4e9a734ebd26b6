"""Write files completely or not at all; the cache folder; locks between processes."""

import hashlib
import os
import platform
import shutil
import sysconfig
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from nsopt.errors import NsoptError

RUNS = Path("runs")  # default folder of results
STUDY_FILE = "study.db"  # in it
_UNFINISHED = ".part"
_HIDDEN = ".nsopt-"  # begins the names of temporary folders
_LONGEST_NAME = 100


def limit_name(name: str) -> str:
    """Return a name that file systems take: of a long one its beginning and a checksum."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Replace the file at `path` atomically.

    After a crash or an error the old file is still there. Afterwards the content is on the disk
    (fsync).
    """
    with written_beside(path) as unfinished, unfinished.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # some systems cannot write the folder's list of names to the disk
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a file for the block to write, which then replaces the one at `path`.

    It is in a new folder that only this user may enter, so nobody can put a link where the block
    writes. A link at `path` is replaced, not followed. Such folders of killed processes are
    deleted.
    """
    remove_of_killed(path.parent)
    with _make_folder(path.parent) as folder:
        unfinished = Path(folder) / path.name
        yield unfinished
        unfinished.replace(path)


def _make_folder(parent: Path, attempts: int = 3) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder; try again if another process deletes its parent meanwhile."""
    parent.mkdir(parents=True, exist_ok=True)
    try:
        return tempfile.TemporaryDirectory(_name_end(os.getpid()), _HIDDEN, parent)
    except FileNotFoundError:
        if attempts == 1:
            raise
        return _make_folder(parent, attempts - 1)


def remove_of_killed(folder: Path) -> None:
    """Delete the temporary folders that killed processes of this machine left."""
    for unfinished in folder.glob(f"{_HIDDEN}????????{_name_end('*')}"):
        process = unfinished.name.removesuffix(_UNFINISHED).rpartition(".")[2]
        is_here = unfinished.name.endswith(_name_end(process))
        if is_here and process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(unfinished, ignore_errors=True)  # it may be another user's


def is_installed(file: Path) -> bool:
    """Return whether a file of Python code is of an installed package or of Python itself."""
    return any(file.is_relative_to(folder) for folder in _find_installed())


@cache
def _find_installed() -> list[Path]:
    return [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def check_writable(folder: Path | str, option: str) -> None:
    """Raise NsoptError if no file can be created in `folder`, which need not exist yet.

    Args:
        option: the command-line option that named the folder, for the message.
    """
    if not str(folder):
        raise NsoptError(f"{option} is empty: name a folder, or leave it out")
    try:
        str(Path(folder).absolute()).encode()  # as SQLite names files
        nearest = next(path for path in (Path(folder), *Path(folder).parents) if _exists(path))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except (OSError, ValueError) as error:  # ValueError for a null byte, or an unknown encoding
        reason = getattr(error, "strerror", None) or error
        place = f"{folder!s:.500}"  # of those that are too long, the beginning
        raise NsoptError(f"cannot write to {place} ({reason}): give another {option}") from None


def _exists(path: Path) -> bool:
    """Return whether `path` exists. Raises OSError if, say, a parent is a file."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _name_end(process: int | str) -> str:
    """Return how the names of a process's temporary folders end. Two machines that share a folder
    may use the same number."""
    return f".{platform.node()}.{process}{_UNFINISHED}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_cached(path: Path, content: bytes) -> None:
    """Write a file in the cache folder, or nothing if the folder cannot be written."""
    with suppress(OSError):
        write_whole(path, content)


def cache_folder() -> Path:
    """Return the cache folder, `$XDG_CACHE_HOME/nsopt`: nsopt can recreate what is in it.

    Without XDG_CACHE_HOME and a home folder in which this user may write, as in some containers, it
    is a folder of this user among the temporary files.

    Raises:
        NsoptError: if another user made that folder.
    """
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(chosen) / "nsopt"
    with suppress(RuntimeError, OSError):  # no home, or a file in its place
        cache = Path.home() / ".cache"
        nearest = next(path for path in (cache, *cache.parents) if _exists(path))
        if nearest.is_dir() and os.access(nearest, os.W_OK):
            return cache / "nsopt"
    folder = Path(tempfile.gettempdir()) / f"nsopt-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid() or not folder.is_dir() or folder.is_symlink():
        raise NsoptError(f"{folder} belongs to another user: name a folder in XDG_CACHE_HOME")
    return folder


@contextmanager
def hold_lock(what: Path, before_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock inside the block, so that one process at a time runs it.

    A process that dies frees the lock. Lock files are in the cache folder and stay there.

    Args:
        before_waiting: called if another process holds the lock.
    """
    lock = _make_lock(what)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        before_waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_being_done(what: Path) -> bool:
    try:
        with _make_lock(what).acquire(timeout=0):
            return False
    except Timeout:
        return True


def _make_lock(what: Path) -> FileLock:
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(what.resolve()).encode()).hexdigest()[:32]
    return FileLock(folder / f"{name}.lock")
