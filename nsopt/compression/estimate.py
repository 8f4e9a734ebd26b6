"""How long a compression takes, said before it begins."""

from collections.abc import Sequence
from contextlib import suppress

from nsopt.compression.budgets import budgets_of
from nsopt.compression.fits import Fits
from nsopt.errors import NoWidthsError
from nsopt.latency.allowance import MOST
from nsopt.pruning.inherited import SCORE_STEPS
from nsopt.samplers.candidates import list_prices
from nsopt.scaling.budget import AskedBudget, AskedLimit
from nsopt.scaling.law import uniform_curve
from nsopt.scaling.metric import MACS
from nsopt.session.durations import Durations, format_duration
from nsopt.session.session import Session
from nsopt.storage.schema import DENSE, SCORED

Widths = tuple[int, ...]
_GUESS = (AskedLimit(MACS, 0.5, is_share=True),)  # in place of a number of milliseconds


def tell_duration(fits: Fits, asked: Sequence[AskedBudget], candidates: int, seeds: int) -> None:
    """Say how long a new compression takes, phase by phase; networks are as wide as uniform ones.

    Without training it is the number of fits, and nothing where a user's trainer counts its steps.
    """
    session, subject = fits.session, fits.session.subject
    training = subject.settings.training
    stored = session.workspace.studies(subject.name).keys() & {DENSE, SCORED}
    if stored or subject.trainer is not None:
        return
    is_timed = any(each.is_timed for each in asked)
    timings = f", and at most {format_duration(MOST)} of timings" if is_timed else ""
    if fits.begin:
        session.progress.message(
            f"{(2 * seeds + fits.lead) * len(asked)} networks to fit at most; the first shows how "
            f"long one takes{'' if training.epochs else timings}"
        )
    if not training.epochs:
        return
    if fits.begin:
        steps, least = fits.count_steps(), training.least_steps or 0
        more = f" and takes {least}" if steps < least else ""
        session.progress.message(
            f"{steps} steps are few: fine-tuning begins with fits without training{more}"
        )
    seconds = _estimate(session, asked, 0 if fits.lead else candidates, seeds)
    parts = ", ".join(f"{name} {format_duration(own)}" for name, own in seconds.items())
    whole = format_duration(sum(seconds.values()))
    also = ", besides the fits" if fits.begin else ""
    session.progress.message(f"takes about {whole} here ({parts}){also}{timings}")


def _estimate(
    session: Session, asked: Sequence[AskedBudget], candidates: int, seeds: int
) -> dict[str, float]:
    """Return the seconds of each phase, from the durations of single steps.

    Without candidates, nothing is searched and scored.
    """
    arch, settings = session.subject.arch, session.subject.settings
    budgets, law = budgets_of(list(map(_count, asked)), arch), uniform_curve(arch.base_widths)
    durations, sizes, seconds = Durations(session), list[Widths](), dict[str, float]()
    for budget in budgets:
        with suppress(NoWidthsError):
            sizes.append(budget.solve(law, arch, settings))
    if candidates:
        prices = {price for budget in budgets for price in list_prices(budget.metric)}
        seconds["searches"] = sum(durations.estimate_search(price, 1) for price in prices)
        batch = settings.search.batch_size
        scored = (SCORE_STEPS * durations.time_step(widths, batch) for widths in sizes)
        seconds["scores"] = candidates * sum(scored)
    trained = (durations.estimate_training(settings.training, widths) for widths in sizes)
    seconds["fine-tuning"] = 2 * seeds * sum(trained)
    return seconds


def _count(asked: AskedBudget) -> AskedBudget:
    """Return a budget as if milliseconds followed the MACs: nothing is timed yet."""
    counted = {limit.metric: limit for limit in asked.limits if not limit.metric.is_timed}
    for limit in asked.limits:
        if limit.metric.is_timed and limit.is_share:
            counted.setdefault(MACS, limit._replace(metric=MACS))
    return AskedBudget(asked.word, tuple(counted.values()) or _GUESS)
