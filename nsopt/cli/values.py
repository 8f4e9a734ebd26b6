"""Values of options: numbers in a range, paths, metrics; and options that name a stored study."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from nsopt.errors import NsoptError
from nsopt.session.processes import STORAGE_VARIABLE

T = TypeVar("T")
_ATTRIBUTE = re.compile(r'(?ms)^        (\w+): (.+?)(?=^        \w+: |^    """)')


def documented(file: str) -> Callable[[type[T]], type[T]]:
    """Give options the help of the settings of the same names.

    Args:
        file: of nsopt, with the settings. It is read and not imported, so that help is fast.
    """
    source = (Path(__file__).parents[1] / file).read_text()
    texts = {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(source)}

    def document(options: type[T]) -> type[T]:
        for name, hint in options.__annotations__.items():
            if name in texts:
                text = texts[name][0].upper() + texts[name][1:]
                options.__annotations__[name] = Annotated[hint, Parameter(help=text)]
        return options

    return document


def _read_whole(kind: Any, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)  # Cyclopts would round
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number: write one.") from None


Whole = Annotated[int, Parameter(converter=_read_whole)]
Count = Annotated[Whole, Parameter(validator=Number(gte=1))]
Repeats = Annotated[Whole, Parameter(validator=Number(gte=1, lte=1_000_000))]
CountFrom2 = Annotated[Whole, Parameter(validator=Number(gte=2))]


def _read_path(kind: Any, tokens: Sequence[Token]) -> Path:
    if not tokens[0].value:  # pathlib takes it for the working directory
        raise ValueError("It is empty: name a path, or leave the option out.")
    try:
        return Path(tokens[0].value).expanduser()
    except RuntimeError:
        raise ValueError("It names a home folder that does not exist.") from None


def _read_metric(kind: Any, tokens: Sequence[Token]) -> str:
    from nsopt.scaling.metric import get_single_metric

    return get_single_metric(tokens[0].value).name


MetricName = Annotated[Literal["params", "macs", "latency"], Parameter(converter=_read_metric)]
GivenPath = Annotated[Path | None, Parameter(converter=_read_path)]


def read_rounding(option: str, text: str | None) -> int | dict[str, int] | None:
    """Read a number, or numbers by metric, of an option. Raises NsoptError for invalid ones."""
    from nsopt.scaling.metric import get_single_metric

    if text is None:
        return None
    parts = [part.strip().rpartition("=") for part in text.split(",")]
    if not all(number.isdecimal() and int(number) for _, _, number in parts):
        raise NsoptError(f"{option} {text!r} is not a width: write 8, or latency=16,macs=8")
    if parts[0][0] == "" and len(parts) == 1:
        return int(parts[0][2])
    numbers = {get_single_metric(name.strip()).name: int(number) for name, _, number in parts}
    if len(numbers) < len(parts):
        raise NsoptError(f"{option} {text!r} names a metric twice: give one number for each")
    return numbers


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """Where results are."""

    storage: Annotated[str | None, Parameter(env_var=STORAGE_VARIABLE)] = None
    """Optuna storage URL. By default an SQLite file: commands that search or train take the one in
    --out, all others the newest study.db under runs/."""

    def find_url(self) -> str:
        """Return the URL, by default that of the newest study. Raises NsoptError without any."""
        from nsopt.storage.opening import newest_storage

        return self.storage or newest_storage()


@dataclass(frozen=True, kw_only=True)
class StoredOptions(StorageOptions):
    """A stored study."""

    name: str | None = None
    """The study as ARCH-DATA-PRESET, if several are stored."""


@dataclass(frozen=True, kw_only=True)
class ArtifactOptions(StorageOptions):
    """Where networks are stored."""

    artifacts: GivenPath = None
    """Folder of the stored networks; by default `artifacts` in the folder of an SQLite file."""


@dataclass(frozen=True, kw_only=True)
class StoredNetworkOptions:
    """Where the code of a stored study is."""

    arch: str | None = None
    """Network of the stored study; needed only if it is package.module:factory. With
    `nsopt widths --law` the network of the law, by default vgg11."""
    task: str | None = None
    """Task of the stored study, package.module:function, if it is not of images."""
