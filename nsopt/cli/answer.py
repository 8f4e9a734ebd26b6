"""What a command answered, kept so that the same command answers again in a second.

An answer holds while nothing changed: the command, its folder and the machine, installed packages,
the user's code, and all files that were read or written, each by its size and the time of its last
change. Otherwise the command runs as always.
"""

import hashlib
import json
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nsopt.files import is_installed, write_whole

_NAME = ".answer-"  # begins the names of files


@dataclass(frozen=True)
class Answer:
    """The last lines of a command: a table, its cells by column, and what follows it."""

    title: str
    rows: Sequence[Mapping[str, str]]
    lines: Sequence[str]


def read_answer(folder: Path, command: object) -> Answer | None:
    """Return the answer that `keep_answer` wrote to a folder, if there is one and it still holds.

    Args:
        command: the options, whose repr identifies them.
    """
    try:
        kept = json.loads(_find_file(folder, command).read_text(encoding="utf-8"))
        if kept["state"] == _describe_state(command, kept["read"]):
            return Answer(**kept["answer"])
    except (OSError, LookupError, TypeError, ValueError):
        pass
    return None


def keep_answer(folder: Path, command: object, answer: Answer, read: Iterable[Path]) -> None:
    """Keep the answer to a command.

    Args:
        read: files and folders that it read or wrote. Imported modules are added.
    """
    paths = sorted({str(path.absolute()) for path in (*read, *_list_modules())})
    kept = {"state": _describe_state(command, paths), "read": paths, "answer": asdict(answer)}
    write_whole(_find_file(folder, command), json.dumps(kept).encode())


def _find_file(folder: Path, command: object) -> Path:
    """Return the file of an answer, which other commands do not have."""
    return folder / f"{_NAME}{hashlib.sha256(repr(command).encode()).hexdigest()[:16]}.json"


def _describe_state(command: object, paths: Iterable[str]) -> str:
    """Return a checksum of a command, the machine, its packages, and the state of files."""
    installed = Path(sysconfig.get_path("purelib")).stat().st_mtime_ns
    where = platform.node(), str(Path.cwd()), installed
    digest = hashlib.sha256(repr((where, command)).encode())
    for path in map(Path, paths):
        for file in sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]:
            if not file.name.startswith(_NAME):
                seen = file.stat()
                digest.update(repr((str(file), seen.st_size, seen.st_mtime_ns)).encode())
    return digest.hexdigest()


def _list_modules() -> Iterator[Path]:
    """Yield the files of imported modules; of an installed package only its first file."""
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        if file.is_file() and ("." not in name or not is_installed(file)):
            yield file
