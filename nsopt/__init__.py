"""nsopt: widths for any budget of parameters, MACs or milliseconds, from a power law.

The public names stand in `__init__.pyi`. Each is imported when it is first used: `import nsopt`
alone stays light.
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
