"""The rules of ATen operations: functions that label the results, and join or freeze atoms."""

from collections.abc import Callable
from typing import TypeVar

Rule = Callable[..., None]
R = TypeVar("R", bound=Rule)
RULES: dict[str, Rule] = {}  # by operation; without a rule, all atoms of its inputs freeze


def rule(*operations: str) -> Callable[[R], R]:
    """Register a function as the rule of these ATen operations.

    Args:
        operations: their names; one string may hold several, separated by spaces.
    """

    def register(function: R) -> R:
        RULES.update(dict.fromkeys(" ".join(operations).split(), function))
        return function

    return register
