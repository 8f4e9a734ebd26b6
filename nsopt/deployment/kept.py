"""A trained network as a file, with everything needed to use it."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import InstanceOf, TypeAdapter
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nsopt.compute.checkpoint import hidden_buffers, load_full_state
from nsopt.data.images import Splits
from nsopt.deployment.trained import describe_differences, explain_reading, read_weights
from nsopt.errors import NsoptError
from nsopt.isolation import public
from nsopt.models.architecture import Architecture, build_to_fill
from nsopt.models.registry import stored_architectures
from nsopt.storage.trials import LARGEST_WIDTH, Point
from nsopt.training.outcome import Outcome


@dataclass(frozen=True, eq=False)
class KeptNetwork:
    """A trained network with everything needed to use it.

    Attributes:
        arch: name of the architecture, as `nsopt.get_architecture` takes it.
        widths: L integers.
        input_shape: (C, H, W); empty for a task that is not of images, as are the next three.
        mean: per channel, of pixels from 0 to 1, as `torchvision.transforms.Normalize` takes it.
        std: standard deviation, in the same way.
        classes: names, in the order of the outputs.
        method: of the trial that trained the network, as are metric, budget, ratio and seed.
        score: of the validation, at the epoch that was kept.
        test_score: of the test, likewise; None for a task without a test.
        model: the network; what `load_network` returns is in evaluation mode on the CPU.
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
    score: float
    test_score: float | None
    model: InstanceOf[nn.Module] = field(repr=False)

    @classmethod
    def of(
        cls,
        arch: str,
        point: Point,
        outcome: Outcome,
        splits: Splits | None = None,
        classes: tuple[str, ...] = (),
    ) -> Self:
        """Make it from the outcome of training `point`, with the name of a network.

        Args:
            splits: the images; None for other tasks.
            classes: names of their classes.
        """
        mean, std = ((), ()) if splits is None else splits.normalisation
        return cls(
            arch=arch,
            widths=outcome.widths,
            input_shape=() if splits is None else splits.train.shape,
            mean=mean,
            std=std,
            classes=classes,
            **point.attributes,
            score=outcome.score,
            test_score=outcome.test_score,
            model=outcome.model,
        )

    @property
    def val_accuracy(self) -> float:
        """Validation accuracy (%) of a classifier of images."""
        return self.score

    @property
    def test_accuracy(self) -> float:
        """Test accuracy (%) of a classifier of images. Raises NsoptError without a test."""
        if self.test_score is None:
            raise NsoptError("the task of this network has no test: use .score")
        return self.test_score

    @property
    def facts(self) -> dict[str, Any]:
        """Everything except the weights, JSON-safe."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def content(self) -> dict[str, Any]:
        """Content of its file: facts, state, and the buffers that the state leaves out."""
        parts = {"state": dict(self.model.state_dict()), "buffers": hidden_buffers(self.model)}
        # cloned: read_weights refuses shared tensors
        cloned: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.cpu().clone(), parts)
        return self.facts | cloned

    def save(self, path: Path) -> None:
        """Write a file that `load_network` reads."""
        torch.save(self.content, path)


_KEPT = TypeAdapter(KeptNetwork)


@public
def load_network(path: Path | str, arch: str | Architecture | None = None) -> KeptNetwork:
    """Load a network that a study stored, or that `nsopt.export` wrote with `format="state_dict"`.

    No code in the file is executed.

    Args:
        path: of the file.
        arch: the architecture; needed for a network that you traced, `nsopt.trace(model, inputs)`.
            For `package.module:factory`, whose code builds the network, its name is enough.

    Returns:
        The network with its classes, normalisation, widths and accuracies.

    Raises:
        NsoptError: if the file contains no such network, or one of another architecture.

    Examples:
        >>> network = nsopt.load_network("small.pt")
        >>> network.model, network.widths, network.test_accuracy
    """
    with explain_reading(path, "nsopt"):
        content = read_weights(Path(path))
        state, rest = content.pop("state"), content.pop("buffers")
        kept = _KEPT.validate_python(content | {"model": nn.Identity()})
        for family in _list_families(kept, arch):  # before it is built
            if max(kept.widths) > LARGEST_WIDTH:
                raise NsoptError(f"a width of {max(kept.widths)} is above {LARGEST_WIDTH}")
            if differences := describe_differences(family, kept.widths, state):
                raise NsoptError(f"its tensors are not those of the stored widths: {differences}")
        model = build_to_fill(family, kept.widths)
        load_full_state(model, state | {name: rest[name] for name in hidden_buffers(model)})
        return replace(kept, model=model.eval())


def _list_families(kept: KeptNetwork, arch: str | Architecture | None) -> Iterable[Architecture]:
    """Return architectures whose shapes a network must have; the last one builds it."""
    if isinstance(arch, nn.Module):
        raise NsoptError("arch is a network: give arch=nsopt.trace(model, inputs)")
    if arch is not None and not isinstance(arch, str):
        return [arch]
    if not kept.input_shape:
        raise NsoptError(
            f"{kept.arch} takes no images: give arch=nsopt.trace(model, inputs) to load it"
        )
    channels, image_size, _ = kept.input_shape
    return stored_architectures(kept.arch, arch, len(kept.classes), image_size, channels)


@public
def load_weights(path: Path | str, arch: str | Architecture | None = None) -> nn.Module:
    """Load only the module of `load_network`, in evaluation mode.

    It takes normalised images; `load_network` has their mean and standard deviation.

    Args:
        path: of the file.
        arch: see `load_network`.

    Raises:
        NsoptError: see `load_network`.

    Examples:
        >>> model = nsopt.load_weights("small.pt")
    """
    return load_network(path, arch).model
