"""A trained network as a file, with what it takes to use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import InstanceOf, TypeAdapter
from torch import Tensor, nn

from nsopt.data.images import Splits
from nsopt.errors import NsoptError
from nsopt.models.architecture import Architecture, shapes_of
from nsopt.models.registry import stored_architecture
from nsopt.storage.trials import LARGEST_WIDTH, Point
from nsopt.storage.weights_file import read_weights
from nsopt.training.loop import Outcome

_PIXEL_RANGE = 255.0


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A trained network, in evaluation mode on the CPU, and how images become its input.

    arch: the word that names it; input_shape: (C, H, W); mean, std: per channel, of pixels from 0
    to 1, as `torchvision.transforms.Normalize` takes them; classes: their names in the order of the
    outputs; method, metric, budget, ratio, seed: of the trial that trained it; accuracies in
    percent, at the last epoch.
    """

    arch: str
    widths: tuple[int, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    method: str
    metric: str
    budget: int | float
    ratio: float | None
    seed: int
    val_accuracy: float
    test_accuracy: float
    model: InstanceOf[nn.Module] = field(repr=False)

    @classmethod
    def of(
        cls, arch: str, splits: Splits, classes: tuple[str, ...], point: Point, outcome: Outcome
    ) -> Self:
        """What training `point` on `splits` gave. arch: the word that names the network."""
        return cls(
            arch=arch,
            widths=outcome.widths,
            input_shape=splits.train.shape,
            mean=tuple((splits.mean / _PIXEL_RANGE).tolist()),
            std=tuple((splits.std / _PIXEL_RANGE).tolist()),
            classes=classes,
            method=point.method,
            metric=point.metric,
            budget=point.budget,
            ratio=point.ratio,
            seed=point.seed,
            val_accuracy=outcome.val_accuracy,
            test_accuracy=outcome.test_accuracy,
            model=outcome.model,
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the weights, as JSON can hold it."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def content(self) -> dict[str, Any]:
        """What a file of it holds: facts and state."""
        state = {name: tensor.cpu().clone() for name, tensor in self.model.state_dict().items()}
        return self.facts | {"state": state}  # cloned: shared tensors claim more than they hold

    def save(self, path: Path) -> None:
        """Write a file that `load_network` reads."""
        torch.save(self.content, path)


_KEPT = TypeAdapter(KeptNetwork)


def load_network(path: Path | str, arch: str | None = None) -> KeptNetwork:
    """A network that a study kept, or that `nsopt export --format state_dict` wrote.

    Nothing in the file is executed. arch: the name of its architecture, needed only if that is
    `package.module:factory`, whose code makes the network.

    Raises NsoptError for a file that holds no such network, or one of another architecture.
    """
    try:
        content = read_content(path)
        state = content.pop("state")
        kept = _KEPT.validate_python(content | {"model": nn.Identity()})
        channels, image_size, _ = kept.input_shape
        family = stored_architecture(kept.arch, arch, len(kept.classes), image_size, channels)
        _check_shapes(family, kept.widths, state)
        model = family.build(kept.widths)
        model.load_state_dict(state)
        return replace(kept, model=model.eval())
    except NsoptError as error:
        raise NsoptError(f"no weights can be read from {path}: {error}") from None
    except OSError as error:
        raise NsoptError(f"no weights can be read from {path}: {error.strerror}") from None
    except Exception as error:  # whatever a foreign file makes torch raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NsoptError(f"{path} holds no weights that nsopt kept: {reason}") from None


def _check_shapes(
    family: Architecture, widths: tuple[int, ...], state: Mapping[str, Tensor]
) -> None:
    """NsoptError if a state is not that of a network of these widths, before that is built."""
    if max(widths) > LARGEST_WIDTH:
        raise NsoptError(f"a width of {max(widths)} is above {LARGEST_WIDTH}")
    expected, found = family.shapes(widths), shapes_of(state)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise NsoptError(
                f"{name} has the shape {found.get(name)}, and {expected.get(name)} in a network of "
                "the stored widths"
            )


def load_weights(path: Path | str, arch: str | None = None) -> nn.Module:
    """The module of `load_network` alone."""
    return load_network(path, arch).model


def read_content(path: Path | str) -> dict[str, Any]:
    """The `content` of the network in a file (`read_weights`)."""
    return read_weights(Path(path))
