"""The latencies of a comparison, measured back to back in one pass over its configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from optuna.study import Study

from nsopt.models.architecture import Architecture
from nsopt.progress import Progress
from nsopt.training.device import Compute
from nsopt.training.latency import Latency, measure_latency
from nsopt.tuning import schema


def complete_latencies(
    studies: Mapping[str, Study],
    needed: Mapping[str, Sequence[tuple[int, ...]]],
    arch: Architecture,
    compute: Compute,
    progress: Progress,
) -> dict[str, Latency]:
    """Latency by `width_key` of all configurations; those that no study holds are measured now.

    studies, needed: study and configurations of each method. Each study keeps its own.
    """
    known: dict[str, Latency] = {}
    for study in studies.values():
        known |= {k: Latency(**v) for k, v in schema.read_latencies(study).items()}
    missing = {
        schema.width_key(widths): widths
        for configurations in needed.values()
        for widths in configurations
        if schema.width_key(widths) not in known
    }
    if missing:
        progress.start("measuring latency", len(missing))
    for key, widths in missing.items():
        model = arch.build(widths)
        known[key] = measure_latency(model, arch.input_shape, device=str(compute.device))
        progress.advance(f"{known[key].median_ms:.1f} ms")
    for method, configurations in needed.items():
        keys = {schema.width_key(widths) for widths in configurations}
        stored = schema.read_latencies(studies[method])
        if not keys <= stored.keys():
            new = {key: asdict(known[key]) for key in keys}
            schema.write_latencies(studies[method], new | stored)
    return known
