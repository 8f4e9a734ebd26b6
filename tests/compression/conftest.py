"""More digits than elsewhere, because networks must learn."""

from tests.training.conftest import digits

__all__ = ["digits"]
