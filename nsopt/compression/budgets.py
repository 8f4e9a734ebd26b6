"""Budgets as users write them: `macs=50%` of a network, `latency=5ms`, or both at once."""

from collections.abc import Sequence

from nsopt.compression.solver import Solver
from nsopt.errors import NoWidthsError, NsoptError, shorten
from nsopt.models.architecture import Architecture
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import Budget, read_budget
from nsopt.session.presets import StudySettings

CURVE = Budget("curve", ())  # in place of budgets: shares of the MACs, from 90 % to 10 %


def split_budgets(text: str) -> list[str]:
    """Split budgets of different networks: at semicolons, or at commas if there is no semicolon."""
    return [word.strip() for word in text.split(";" if ";" in text else ",") if word.strip()]


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
    """Return `asked`; in place of `CURVE` those shares of the MACs for which there are widths."""
    if CURVE not in asked:
        return asked
    shares = read_words([f"macs={percentage}%" for percentage in range(90, 0, -10)])
    return [share for share in shares if _has_widths(share, arch, settings)] or shares


def _has_widths(budget: Budget, arch: Architecture, settings: StudySettings) -> bool:
    try:
        check_budgets([budget], arch, settings)
    except NoWidthsError:
        return False
    return True


def check_budgets(asked: Sequence[Budget], arch: Architecture, settings: StudySettings) -> None:
    """Raise the errors of budgets that need no measurement: see `budgets_of` and `Solver.solve`."""
    for budget in budgets_of([wanted for wanted in asked if not wanted.is_timed], arch):
        Solver(budget, arch, settings).solve(uniform_curve(arch.base_widths))


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
