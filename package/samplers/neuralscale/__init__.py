"""NeuralScaleSampler, as OptunaHub loads it; it lives in the library nsopt."""

from nsopt import NeuralScaleSampler, PowerLaw, get_architecture, suggest_widths, uniform_curve

__all__ = [
    "NeuralScaleSampler",
    "PowerLaw",
    "get_architecture",
    "suggest_widths",
    "uniform_curve",
]
