"""NeuralScaleSampler, as OptunaHub loads it; it lives in the library nsopt."""

from nsopt import NeuralScaleSampler, get_architecture, suggest_widths
from nsopt.scaling.law import PowerLaw, uniform_curve

__all__ = [
    "NeuralScaleSampler",
    "PowerLaw",
    "get_architecture",
    "suggest_widths",
    "uniform_curve",
]
