from .data.images import ImageData as ImageData
from .data.images import ImageSet as ImageSet
from .data.registry import load_data as load_data
from .descent.search import SearchResult as SearchResult
from .descent.search import search as search
from .errors import NsoptError as NsoptError
from .experiments.timing import with_latency as with_latency
from .latency.measure import Latency as Latency
from .latency.measure import measure_latency as measure_latency
from .methods.base import LawInputs as LawInputs
from .methods.base import Method as Method
from .methods.registry import register_method as register_method
from .models.architecture import Architecture as Architecture
from .models.registry import architectures as architectures
from .models.registry import get_architecture as get_architecture
from .models.tracing.trace_module import trace as trace
from .pruning.settings import SearchSettings as SearchSettings
from .samplers.neuralscale import NeuralScaleSampler as NeuralScaleSampler
from .samplers.neuralscale import suggest_widths as suggest_widths
from .scaling.algorithm3 import SgdFit as SgdFit
from .scaling.algorithm3 import solve_widths_sgd as solve_widths_sgd
from .scaling.law import PowerLaw as PowerLaw
from .scaling.law import ScalingLaw as ScalingLaw
from .scaling.law import uniform_curve as uniform_curve
from .scaling.metric import Metric as Metric
from .scaling.solve import WidthFit as WidthFit
from .scaling.solve import solve_widths as solve_widths
from .storage.kept import KeptNetwork as KeptNetwork
from .storage.kept import load_network as load_network
from .storage.kept import load_weights as load_weights
from .training.loop import Epoch as Epoch
from .training.loop import Outcome as Outcome
from .training.loop import train as train
from .training.settings import TrainSettings as TrainSettings

__version__: str
__all__: list[str]
