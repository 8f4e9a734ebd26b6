"""Silence PyTorch's loggers where nsopt reports the errors itself."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


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
