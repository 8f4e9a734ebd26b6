"""nsopt: widths for any parameter or MAC budget, from a power law found by pruning.

The names below are imported when they are first used: `import nsopt` alone stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nsopt.data.registry import load_data
    from nsopt.descent import SearchResult, search
    from nsopt.errors import NsoptError
    from nsopt.models.architecture import Architecture
    from nsopt.models.registry import architectures, get_architecture
    from nsopt.pruning.settings import SearchSettings
    from nsopt.scaling.curves import uniform_curve
    from nsopt.scaling.power_law import PowerLaw
    from nsopt.scaling.solve import WidthFit, solve_widths
    from nsopt.scaling.solve_sgd import SgdFit, solve_widths_sgd
    from nsopt.training.latency import Latency, measure_latency
    from nsopt.training.loop import Outcome, train
    from nsopt.training.settings import TrainSettings
    from nsopt.tuning.artifacts import load_weights
    from nsopt.tuning.sampler import NeuralScaleSampler, suggest_widths

_HOMES = {
    "Architecture": "nsopt.models.architecture",
    "Latency": "nsopt.training.latency",
    "NeuralScaleSampler": "nsopt.tuning.sampler",
    "NsoptError": "nsopt.errors",
    "Outcome": "nsopt.training.loop",
    "PowerLaw": "nsopt.scaling.power_law",
    "SearchResult": "nsopt.descent",
    "SearchSettings": "nsopt.pruning.settings",
    "SgdFit": "nsopt.scaling.solve_sgd",
    "TrainSettings": "nsopt.training.settings",
    "WidthFit": "nsopt.scaling.solve",
    "architectures": "nsopt.models.registry",
    "get_architecture": "nsopt.models.registry",
    "load_data": "nsopt.data.registry",
    "load_weights": "nsopt.tuning.artifacts",
    "measure_latency": "nsopt.training.latency",
    "search": "nsopt.descent",
    "solve_widths": "nsopt.scaling.solve",
    "solve_widths_sgd": "nsopt.scaling.solve_sgd",
    "suggest_widths": "nsopt.tuning.sampler",
    "train": "nsopt.training.loop",
    "uniform_curve": "nsopt.scaling.curves",
}

__version__ = "0.1.0"
__all__ = [
    "Architecture",
    "Latency",
    "NeuralScaleSampler",
    "NsoptError",
    "Outcome",
    "PowerLaw",
    "SearchResult",
    "SearchSettings",
    "SgdFit",
    "TrainSettings",
    "WidthFit",
    "architectures",
    "get_architecture",
    "load_data",
    "load_weights",
    "measure_latency",
    "search",
    "solve_widths",
    "solve_widths_sgd",
    "suggest_widths",
    "train",
    "uniform_curve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nsopt' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
