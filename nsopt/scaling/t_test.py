"""A t-test for the differences between two methods, one difference per seed."""

import warnings
from typing import Any, Literal

from numpy.typing import ArrayLike


def run_t_test(
    differences: ArrayLike, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> Any:
    """Return scipy's result for the hypothesis that the mean of `differences` (N,) is 0.

    Its `pvalue` is NaN if all differences are 0.
    """
    from scipy.stats import ttest_1samp  # noqa: PLC0415  (slow to import)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # differences may be nearly equal
        return ttest_1samp(differences, 0.0, alternative=alternative)
