"""Budgets as users write them: `macs=50%` of a network, `latency=5ms`, or both at once."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.models.architecture import Architecture
from nsopt.scaling.budget import Budget, read_budget
from nsopt.scaling.cost import LinearCost
from nsopt.scaling.law import PowerLaw, uniform_curve
from nsopt.scaling.metric import LATENCY, MACS
from nsopt.scaling.solve import Limits, solve_widths
from nsopt.session.presets import StudySettings


def limit_widths(budget: Budget, arch: Architecture, settings: StudySettings) -> Limits:
    """Return the limits of widths: rounded, filled, no wider than the base network."""
    return Limits(*settings.rounding(budget.metric), max_width=arch.base_widths, fill=True)


def find_widths(
    budget: Budget, law: PowerLaw, arch: Architecture, settings: StudySettings
) -> tuple[int, ...]:
    """Return the widths along a law at a budget. Raises NoWidthsError if no widths meet it."""
    limits, cost = limit_widths(budget, arch, settings), budget.metric.cost(arch)
    fit = solve_widths(law, cost, budget.limit, *limits, warn=False)
    return tuple(fit.widths.tolist())


def split_budgets(text: str) -> list[str]:
    """Split budgets of different networks: at semicolons, or at commas if there is no semicolon."""
    return [word.strip() for word in text.split(";" if ";" in text else ",") if word.strip()]


_WITHOUT_UNIT = re.compile(r"=(\d\d?)(?=,|$)")
CURVE = Budget("curve", ())  # in place of budgets: shares of the MACs, from 90 % to 10 %


@contextmanager
def naming(budget: Budget, settings: StudySettings) -> Iterator[None]:
    """Name the budget and its rounding in the error that no widths fit it."""
    try:
        yield
    except NoWidthsError as error:
        multiple = np.max(settings.rounding(budget.metric)[0])
        rounded = "" if multiple == 1 else f" of multiples of {multiple}"
        share = _WITHOUT_UNIT.sub(r"=\1%", budget.word)
        meant = "" if share == budget.word else f"; a share is {share}"
        raise NoWidthsError(f"{budget.word}{rounded}: {error}{meant}") from None


def read_words(words: Sequence[str] | str) -> tuple[Budget, ...]:
    """Return what the user asks for. Raises NsoptError if there are no budgets, or an invalid one.

    Args:
        words: `METRIC=LIMIT`, where a limit is a percentage of the base network's cost (`50%`) or a
            number in the unit of the metric. Commas join several limits of one network. Or "curve".
            A single word needs no list.
    """
    if isinstance(words, str) and "," not in words and ";" not in words:
        words = [words]
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise NsoptError("budgets must be a list of words: ['macs=50%', 'latency=5ms']")
    if list(words) == [CURVE.word]:
        return (CURVE,)
    if not words:
        raise NsoptError("give at least one budget, such as macs=50%")
    for word in words:
        if not isinstance(word, str):
            raise NsoptError(f"{shorten(word)} is not a budget: write a word such as 'macs=50%'")
    if CURVE.word in words:
        raise NsoptError("'curve' stands for nine budgets: give it without others")
    return tuple(map(read_budget, words))


def expand_curve(
    asked: Sequence[Budget], arch: Architecture, settings: StudySettings
) -> Sequence[Budget]:
    """Return `asked`; in place of `CURVE` those shares of the MACs for which there are widths.

    Raises:
        NoWidthsError: if there are widths for none of them.
    """
    if CURVE not in asked:
        return asked
    shares = list[Budget]()
    for share in read_words([f"macs={percentage}%" for percentage in range(90, 0, -10)]):
        try:
            check_budgets([share], arch, settings)
        except NoWidthsError:
            if not shares:
                raise
            break
        shares.append(share)
    return shares


def check_budgets(asked: Sequence[Budget], arch: Architecture, settings: StudySettings) -> None:
    """Raise the errors of budgets that need no measurement: see `budgets_of` and `find_widths`."""
    for budget in budgets_of([wanted for wanted in asked if not wanted.is_timed], arch):
        with naming(budget, settings):
            find_widths(budget, uniform_curve(arch.base_widths), arch, settings)


def check_time(asked: Sequence[Budget], arch: Architecture, milliseconds: float) -> None:
    """Raise NsoptError for a budget that the base network meets, if it takes `milliseconds`."""
    macs = MACS.cost(arch)
    whole = LinearCost(LATENCY.name, macs, milliseconds / macs(arch.base_widths))
    budgets_of(asked, arch.with_latency(whole))


def budgets_of(asked: Sequence[Budget], arch: Architecture) -> tuple[Budget, ...]:
    """Return the budgets of a network, each once.

    Raises:
        NsoptError: if the base network already meets one.
    """
    budgets = dict.fromkeys(wanted.at(arch) for wanted in asked)
    for budget in budgets:
        if budget.limit >= budget.metric.cost(arch)(arch.base_widths):
            parts = budget.metric.parts
            costs = " and ".join(part.show(part.cost(arch)(arch.base_widths)) for part in parts)
            raise NsoptError(
                f"{budget.word}: the network already costs only {costs}; give a smaller budget"
            )
    return tuple(budgets)
