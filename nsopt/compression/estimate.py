"""How long a compression takes, said before it begins."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from nsopt.compression.budgets import (
    Budget,
    limits_time,
    read_compression_budgets,
    split_into_limits,
)
from nsopt.compression.fits import Fits
from nsopt.errors import NoWidthsError
from nsopt.latency.allowance import MOST
from nsopt.pruning.inherited import SCORE_STEPS
from nsopt.samplers.candidates import list_prices
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import MACS
from nsopt.session.durations import Durations, format_duration
from nsopt.session.session import Session
from nsopt.storage.schema import DENSE, SCORED

Widths = tuple[int, ...]
_GUESS = f"{MACS.name}=50%"  # in place of a number of milliseconds


def tell_duration(fits: Fits, words: Sequence[str], candidates: int, seeds: int) -> None:
    """Say how long a new compression takes, phase by phase; networks are as wide as uniform ones.

    Without training it is the number of fits, and nothing where a user's trainer counts its steps.
    """
    session, subject = fits.session, fits.session.subject
    training = subject.settings.training
    stored = session.workspace.studies(subject.name).keys() & {DENSE, SCORED}
    if stored or subject.trainer is not None:
        return
    timings = f", and at most {format_duration(MOST)} of timings" if limits_time(words) else ""
    if fits.begin:
        session.progress.message(
            f"{(2 * seeds + fits.lead) * len(words)} networks to fit at most; the first shows how "
            f"long one takes{'' if training.epochs else timings}"
        )
    if not training.epochs:
        return
    if fits.begin:
        session.progress.message(_describe_steps(fits.count_steps(), training.least_steps or 0))
    seconds = _estimate(session, words, 0 if fits.lead else candidates, seeds)
    parts = ", ".join(f"{name} {format_duration(own)}" for name, own in seconds.items())
    whole = format_duration(sum(seconds.values()))
    also = ", besides the fits" if fits.begin else ""
    session.progress.message(f"takes about {whole} here ({parts}){also}{timings}")


def _describe_steps(steps: int, least: int) -> str:
    more = f" and takes {least}" if steps < least else ""
    return f"{steps} steps are few: fine-tuning begins with fits without training{more}"


def _estimate(
    session: Session, words: Sequence[str], candidates: int, seeds: int
) -> dict[str, float]:
    """Return the seconds of each phase, from the durations of single steps.

    Without candidates, nothing is searched and scored.
    """
    settings, durations = session.subject.settings, Durations(session)
    budgets = read_compression_budgets(list(map(_count, words)), session.subject.arch)
    sizes, seconds = list(_list_sizes(session, budgets)), dict[str, float]()
    if candidates:
        prices = {price for budget in budgets for price in list_prices(budget.metric)}
        seconds["searches"] = sum(durations.estimate_search(price, 1) for price in prices)
        batch = settings.search.batch_size
        scored = (SCORE_STEPS * durations.time_step(widths, batch) for widths in sizes)
        seconds["scores"] = candidates * sum(scored)
    trained = (durations.estimate_training(settings.training, widths) for widths in sizes)
    seconds["fine-tuning"] = 2 * seeds * sum(trained)
    return seconds


def _list_sizes(session: Session, budgets: Sequence[Budget]) -> Iterator[Widths]:
    arch = session.subject.arch
    for budget in budgets:
        with suppress(NoWidthsError):
            yield budget.solve(uniform_curve(arch.base_widths), arch, session.subject.settings)


def _count(word: str) -> str:
    """Return a budget as if milliseconds followed the MACs: nothing is timed yet."""
    limits = dict[str, str]()
    for metric, text in split_into_limits(word):
        if not metric.is_timed:
            limits[metric.name] = text
        elif text.endswith("%"):
            limits.setdefault(MACS.name, text)
    return ",".join(f"{name}={text}" for name, text in limits.items()) or _GUESS
