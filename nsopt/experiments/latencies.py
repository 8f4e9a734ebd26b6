"""Measuring the networks of a stored comparison again, on this device or another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from optuna.study import Study
from optuna.trial import TrialState

from nsopt.compute.device import resolve_compute
from nsopt.errors import NsoptError
from nsopt.experiments.sharing import sharing
from nsopt.experiments.task import stored_network
from nsopt.experiments.workspace import Workspace
from nsopt.latency.measure import Latency, distrust, latency_conditions, measure_latencies
from nsopt.progress import Progress
from nsopt.storage import schema, trials
from nsopt.storage.opening import shown
from nsopt.storage.studies import load_studies, only_comparison

_PASSES = 50


@dataclass(frozen=True)
class Measured:
    """One network of a comparison. sizes: in words, the budgets at which it was proposed."""

    method: str
    sizes: tuple[str, ...]
    widths: tuple[int, ...]
    latency: Latency


def measure_again(
    workspace: Workspace,
    name: str | None,
    batch_sizes: Sequence[int],
    device: str,
    threads: int | None,
    progress: Progress,
) -> list[Measured]:
    """Measure all trained networks of the comparison `name` side by side, equal ones once, and
    store it.

    What was measured under other conditions (device, threads, precision, batch size, version of
    torch) stays beside it; under the same ones it is replaced. NsoptError if nothing is stored.
    """
    if not workspace.has_storage:
        raise NsoptError(f"nothing is stored at {shown(workspace.url)}: run a study first")
    name = name or only_comparison(workspace.storage)
    studies = {
        method: study
        for method, study in load_studies(workspace.storage, name).items()
        if not schema.is_search(method)
    }
    networks = [
        (method, study, widths, sizes)
        for method, study in studies.items()
        for widths, sizes in _networks(study).items()
    ]
    if not networks:
        raise NsoptError(f"no completed trial of {name} at {shown(workspace.url)}: nothing to time")
    arch = stored_network(schema.read_task(networks[0][1]), ())
    different = list(dict.fromkeys(widths for _, _, widths, _ in networks))
    found = []
    with sharing(resolve_compute(device, "fp32")) as compute:
        progress.start("measuring latency", len(batch_sizes))
        for batch_size in batch_sizes:
            with compute.exclusive():
                if threads is not None:
                    torch.set_num_threads(threads)
                conditions = latency_conditions(compute.device, batch_size)
                measured = measure_latencies(
                    [arch.build(widths) for widths in different],
                    arch.input_shape,
                    batch_size,
                    repeats=_PASSES,
                    device=str(compute.device),
                )
            progress.advance()
            warning = distrust(measured)
            if warning:
                progress.message(warning)
            latencies = dict(zip(different, measured, strict=True))
            for method, study, widths, sizes in networks:
                latency = latencies[widths]
                schema.write_latency(study, widths, conditions, asdict(latency))
                found.append(Measured(method, tuple(sizes), widths, latency))
    return found


def _networks(study: Study) -> dict[tuple[int, ...], list[str]]:
    """The widths that were trained, with the sizes for which."""
    names = schema.read_task(study).layer_names
    found: dict[tuple[int, ...], list[str]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        point = trials.read_point(trial)
        if point is not None:
            sizes = found.setdefault(trials.read_widths(trial, names), [])
            label = trials.size_label(point.budget, point.metric, point.ratio)
            if label not in sizes:
                sizes.append(label)
    return found
