"""Values of options: whole numbers in a range, paths, names of metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number


def _read_whole(kind: Any, tokens: Sequence[Token]) -> int:
    try:
        return int(tokens[0].value)  # Cyclopts would round
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number: write one.") from None


Whole = Annotated[int, Parameter(converter=_read_whole)]
Count = Annotated[Whole, Parameter(validator=Number(gte=1))]
Repeats = Annotated[Whole, Parameter(validator=Number(gte=1, lte=1_000_000))]
CountFrom0 = Annotated[Whole, Parameter(validator=Number(gte=0))]
CountFrom2 = Annotated[Whole, Parameter(validator=Number(gte=2))]


def _check_batch(kind: Any, size: int | None) -> None:
    if size is not None and size < 2:
        raise ValueError("Must be >= 2; to time single images give --latency-batch-size 1.")


BatchSize = Annotated[Whole, Parameter(validator=_check_batch)]


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
