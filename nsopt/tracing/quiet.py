"""Silence PyTorch's loggers and checks where nsopt reports the errors itself."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """Let a logger, and those below it without a level of their own, log nothing in the block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def silence_fakes() -> Iterator[None]:
    """Let fake tensors log nothing in the block, also if several threads are in one.

    A filter is faster than `silence_logger`, which empties the caches of all loggers.
    """
    logger = logging.getLogger("torch._subclasses.fake_tensor")

    def refuse(_: logging.LogRecord) -> bool:  # another function each time
        return False

    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


@contextmanager
def trust_distributions() -> Iterator[None]:
    """Let new distributions not check the values of their arguments in the block."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)
