"""More digits than elsewhere: networks learn here."""

from tests.training.conftest import digits

__all__ = ["digits"]
