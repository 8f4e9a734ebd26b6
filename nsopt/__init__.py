"""nsopt: widths for any budget of parameters, MACs or milliseconds, from a power law.

`__init__.pyi` lists the public names. Each is imported at its first use, so `import nsopt` is fast.
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
