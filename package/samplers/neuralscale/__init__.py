"""NeuralScaleSampler, as OptunaHub loads it; it lives in the library nsopt."""

from nsopt import get_architecture
from nsopt import NeuralScaleSampler
from nsopt import suggest_widths
from nsopt.scaling.law import PowerLaw
from nsopt.scaling.law import uniform_curve


__all__ = [
    "NeuralScaleSampler",
    "PowerLaw",
    "get_architecture",
    "suggest_widths",
    "uniform_curve",
]
