"""The subject of a study: everything that a result depends on, except its own point."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from torch import nn

from nsopt.compute.checkpoint import CodeReader, identify_code, weights_checksum
from nsopt.compute.device import Compute, resolve_compute
from nsopt.data.images import ImageData, Splits
from nsopt.data.source import Source
from nsopt.errors import NsoptError, shorten
from nsopt.inputs import count_examples
from nsopt.latency.model import LatencyModel
from nsopt.latency.multiples import find_multiple
from nsopt.latency.runtime import TORCH, Runtime, are_images, choose_runtime, with_batch_size
from nsopt.models.architecture import Architecture
from nsopt.models.imported import import_for_inputs
from nsopt.models.registry import get_architecture, is_own, own_architecture, stored_architecture
from nsopt.progress import Progress
from nsopt.scaling.cost import CostModel
from nsopt.scaling.metric import MACS, PARAMS
from nsopt.session.presets import StudySettings
from nsopt.session.workspace import Workspace
from nsopt.settings import BATCH_SIZE, Price, Timed, batch_unit
from nsopt.storage import schema
from nsopt.storage.engine import provenance
from nsopt.storage.studies import check_settings, open_study
from nsopt.tasks.supervise import check_outputs, check_training
from nsopt.tasks.task import Task, identify
from nsopt.training.precision import choose_compute
from nsopt.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class Subject:
    """Network, data and settings.

    Attributes:
        data: images with labels, or a task of the user.
        start: the trained network of base widths that all methods start from; None to train from
            scratch.
        runtime: in which its networks are timed, named by the settings.
    """

    arch: Architecture
    data: ImageData | Task
    settings: StudySettings
    start: nn.Module | None = None
    runtime: Runtime = TORCH

    @classmethod
    def of(cls, arch: Architecture, data: ImageData | Task, settings: StudySettings) -> Self:
        """Make a new one; its settings then name the trained network and the runtime.

        Raises:
            NsoptError: if the network does not take the inputs, or does not return logits for the
                classes of images; if the trainer is no function, or the trained network no module;
                for settings that need one; for an unknown runtime; for another batch size than that
                of a task not of images.
        """
        start = settings.start
        if not isinstance(start, nn.Module | None):
            raise NsoptError(f"start must be a trained network, not {shorten(start)}")
        runtime = choose_runtime(settings.runtime, settings.latency_batch_size)
        if data.trainer is not None and not callable(data.trainer):
            raise NsoptError(f"trainer must be a function, not {shorten(data.trainer)}")
        if start is None:
            check_trains(settings)
            if settings.training.distillation is not None:
                raise NsoptError("distillation needs a trained network as teacher: give start=")
        if isinstance(data, ImageData) or start is None:
            check_outputs(arch, data)
        if isinstance(data, Task):
            settings = settings.updated(search=settings.search.updated(search_images=None))
            if not are_images(data.inputs):
                batch_size = count_examples(data.inputs)
                if runtime.batch_size not in (BATCH_SIZE, batch_size):
                    raise NsoptError(
                        f"latency_batch_size is of images: networks of {data.name} are timed with "
                        f"its own batch of {batch_size}; give Task the batch to time as example="
                    )
                runtime = with_batch_size(runtime, batch_size)
            if start is not None and data.loss is None:  # the teacher alone says what is right
                settings = settings.updated(training=settings.training.updated(distillation=1.0))
        settings = settings.updated(
            start=None if start is None else weights_checksum(start),
            runtime=runtime.name,
            latency_batch_size=runtime.batch_size,
        )
        if settings.training.epochs and data.trainer is None:
            check_training(arch, data)
        return cls(arch, data, settings, start, runtime)

    @property
    def trainer(self) -> Trainer | None:
        """The user's function that trains its networks; None for nsopt's own training."""
        return self.data.trainer

    @property
    def name(self) -> str:
        """The prefix of the names of its studies."""
        return f"{self.arch.name}-{self.data.name}-{self.settings.preset}"

    @property
    def source(self) -> Source:
        """Where the data came from."""
        return self.data.source or Source(self.data.name)

    def study_name(self, method: str) -> str:
        return schema.study_name(self.name, method)

    @cached_property
    def splits(self) -> Splits:
        """The images for training, validation and test. Raises NsoptError for other data."""
        if not isinstance(self.data, ImageData):
            raise NsoptError(f"{self.name} is a task of yours: this needs images")
        return self.data.split(self.settings.training.val_fraction)

    @property
    def training_data(self) -> Task | ImageData:
        """The task, or the images without those that validate in the training ones."""
        if isinstance(self.data, Task):
            return self.data
        splits = self.splits
        data = replace(self.data, train=splits.train, validation=splits.validation)
        return data.normalised_by(*splits.normalisation)

    @property
    def validation_images(self) -> int | None:
        """The number of images for validation; None if its data are not images."""
        return len(self.splits.validation) if isinstance(self.data, ImageData) else None

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies its data."""
        if not isinstance(self.data, ImageData):
            return self.data.fingerprint
        named = {} if self.trainer is None else {"trainer": identify(self.trainer, CodeReader())}
        return self.splits.fingerprint | named

    @property
    def unread(self) -> list[str]:
        """What its functions and data read that may change without another fingerprint."""
        if isinstance(self.data, Task):
            return self.data.unread
        reader = CodeReader()
        reader.read(self.trainer)
        return sorted(reader.unread)

    @property
    def inputs(self) -> Any:
        """A batch with which its networks are timed; None for random images."""
        return None if isinstance(self.data, ImageData) else self.data.inputs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings as they come back from storage, and a fingerprint of the images.

        With a single iteration `convergence` has no effect, and is None here.
        """
        settings = self.settings.model_dump(mode="json")
        if self.settings.search.iterations == 1:
            settings["search"]["convergence"] = None
        return settings | {"data": self.fingerprint}

    def search_kind(self, price: Price) -> str:
        return schema.search_kind(price, self.settings.search.price)

    def _find_identity(self, kind: str) -> dict[str, Any]:
        """Return the settings that decide the study of a method, or of a search."""
        if not schema.is_search(kind):
            return self.identity
        price = schema.price_of_search(kind) or self.settings.search.price
        search = self.identity["search"] | {"price": price}
        identity = {"preset": self.settings.preset, "search": search, "data": self.identity["data"]}
        start = self.identity["start"]
        return identity if start is None else identity | {"start": start}

    @property
    def description(self) -> schema.TaskDescription:
        base, data = self.arch.base_widths, self.data
        if isinstance(data, ImageData):
            shown: dict[str, Any] = {
                "classes": len(data.classes),
                "image_size": data.image_size,
                "channels": data.channels,
            }
        else:
            shown = {"score_name": data.score_name, "has_test": data.test is not None}
        return schema.TaskDescription(
            arch=self.arch.name,
            data=data.name,
            **shown,
            layer_names=self.arch.layer_names,
            base_widths=base,
            fixed=self.arch.summary(),
            base_params=PARAMS.cost(self.arch)(base),
            base_macs=MACS.cost(self.arch)(base),
            code=identify_code(self.arch),
        )

    def stored_studies(self, workspace: Workspace, *wanted: str) -> dict[str, Study]:
        """Return the stored studies by kind: of methods and searches, or those that are wanted.

        Raises NsoptError if other settings wrote them, or another network.
        """
        stored = workspace.studies(self.name)
        studies = {kind: study for kind, study in stored.items() if not wanted or kind in wanted}
        for kind, study in studies.items():
            check_settings(study, self._find_identity(kind))
            old, new = schema.read_task(study), self.description
            for name in ("layer_names", "base_widths", "base_params", "base_macs", "code"):
                if getattr(old, name) != getattr(new, name):
                    what = name.replace("_", " ").replace("code", "code or attributes")
                    raise NsoptError(
                        f"{study.study_name} is of another {self.arch.name}, with other {what}: "
                        "give another out= or storage="
                    )
        return studies

    def open_study(self, storage: BaseStorage, kind: str, compute: Compute) -> Study:
        """Open or create the study of a method, or of a search."""
        unit = batch_unit(self.settings.latency_batch_size)
        of_method = self.description.validation_name, f"latency ({unit})"
        names = schema.SEARCH_METRIC_NAMES if schema.is_search(kind) else of_method
        objectives = dict(zip(names, schema.DIRECTIONS, strict=True))
        identity = self._find_identity(kind)
        return self.open_as(storage, self.study_name(kind), identity, objectives, compute)

    def open_as(
        self,
        storage: BaseStorage,
        name: str,
        identity: Mapping[str, Any],
        objectives: Mapping[str, StudyDirection],
        compute: Compute,
    ) -> Study:
        """Open or create a study; a latency model that nsopt learned is stored, if it has none.

        Args:
            identity: the settings that decide its numbers.
            objectives: the directions of the values of its trials, by name.

        Raises:
            NsoptError: if other settings wrote the study.
        """
        about = self.description, self.source, identity, provenance(compute)
        study = open_study(storage, name, *about, list(objectives), list(objectives.values()))
        write_latency_once(study, self.arch.latency, self.settings.timed)
        return study


def check_trains(settings: StudySettings) -> None:
    """Raise NsoptError for settings without training."""
    if not settings.training.epochs:
        raise NsoptError("epochs must be at least 1: only nsopt.compress works without training")


def complete(subject: Subject, workspace: Workspace, progress: Progress) -> Subject:
    """Return `subject` with what its device is fast at in place of each `auto`."""
    if subject.settings.multiple_of == "auto":
        compute = resolve_compute(subject.settings.training.device, "fp32")
        multiple = find_multiple(compute, subject.runtime, progress)
        progress.message(f"multiple_of=auto is {multiple} here")
        subject = replace(subject, settings=subject.settings.updated(multiple_of=multiple))
    return with_precision(subject, workspace)


def with_precision(subject: Subject, workspace: Workspace) -> Subject:
    """Return `subject` with a precision in place of `auto`.

    That of its stored studies and tunings has priority. A new study gets the precision in which a
    step of its network is faster on this device; what is not trained by a loss gets fp32.
    """
    stored = [schema.read_settings(study) for study in list_studies(subject, workspace)]
    settings, arch, data = subject.settings, subject.arch, subject.data
    is_untrained = not settings.training.epochs or (isinstance(data, Task) and data.loss is None)
    for part in ("search", "training"):
        sgd = getattr(settings, part)
        if sgd.precision == "auto":
            known = [old[part]["precision"] for old in stored if part in old]
            if not known and is_untrained:
                known = ["fp32"]
            elif not known:
                _ = subject.validation_images  # too few are refused before a step is timed
                known = [choose_compute(sgd, arch, arch.base_widths, data).precision]
            settings = settings.updated(**{part: sgd.updated(precision=known[0])})
    return replace(subject, settings=settings)


def list_studies(subject: Subject, workspace: Workspace) -> list[Study]:
    """Return the subject's stored studies and tunings."""
    names = subject.name, schema.tuning_name(subject.name)
    return [study for name in names for study in workspace.studies(name).values()]


def read_architecture(
    subject: schema.TaskDescription, arch_name: str | None, task: Task | None = None
) -> Architecture:
    """Return the network of a stored subject.

    Args:
        arch_name: the name of its architecture, if the user gave one (`stored_architecture`).
        task: the subject, if it is not of images.

    Raises:
        NsoptError: if it is not of images and `task` is None.
    """
    if task is not None:
        return own_architecture(subject.arch, arch_name, task.inputs)
    if subject.classes is None or subject.image_size is None or subject.channels is None:
        named = f" and arch={subject.arch}" if is_own(subject.arch) else ""
        raise NsoptError(f"{subject.arch} is of a task: give the task's function as task={named}")
    return stored_architecture(
        subject.arch, arch_name, subject.classes, subject.image_size, subject.channels
    )


def write_latency_once(study: Study, model: CostModel | None, timed: Timed) -> None:
    """Store a latency model that nsopt learned, if the study has none."""
    if isinstance(model, LatencyModel):
        schema.write_latency_model(study, model.to_dict() | timed._asdict())


def with_stored_latency(arch: Architecture, studies: Iterable[Study], timed: Timed) -> Architecture:
    """Return `arch` with the latency model of one of the studies, if any has one.

    Milliseconds of another runtime or batch size do not count; those of another machine do.
    """
    for study in studies:
        model = schema.read_latency_model(study, partial(_make_latency, arch, timed))
        if model is not None:
            return arch.with_latency(model)
    return arch


def _make_latency(arch: Architecture, timed: Timed, stored: dict[str, Any]) -> CostModel | None:
    if (stored["runtime"], stored["batch_size"]) != timed:
        return None
    model = LatencyModel.from_dict(stored, arch)
    if not 0 < float(model(arch.base_widths)) < math.inf:
        raise ValueError("it predicts no milliseconds")
    return model


def make_architecture(name: str, data: ImageData | Task) -> Architecture:
    """Return the network of a name for these data: of a task, `package.module:factory`, traced.

    Raises:
        NsoptError: for an unknown name, or a network that cannot be traced.
    """
    if not isinstance(data, Task):
        return get_architecture(name, len(data.classes), data.image_size, data.channels)
    if not is_own(name):
        raise NsoptError(
            f"{name} is a network of images: name a function of yours, package.module:factory, "
            "that returns a network for the inputs of the task"
        )
    return import_for_inputs(name, data.inputs)
