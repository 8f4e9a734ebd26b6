"""nsopt: widths for any budget of parameters, MACs or milliseconds, from a power law.

`__init__.pyi` lists the public names. Each is imported at its first use, so `import nsopt` is fast.
"""

import random
from typing import Any

from lazy_loader import attach_stub

__version__ = "0.1.0"
_import, __dir__, __all__ = attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name. Python's random numbers stay: rich draws one when it is imported."""
    state = random.getstate()
    try:
        return _import(name)
    finally:
        random.setstate(state)
