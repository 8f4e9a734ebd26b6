"""The latency model of a subject: read from its storage, or learned now."""

from collections.abc import Sequence
from dataclasses import replace

from nsopt.compute.device import resolve_compute
from nsopt.compute.sharing import sharing
from nsopt.latency.learn import learn_latency
from nsopt.latency.timer import Timer
from nsopt.methods.base import Method
from nsopt.progress import Progress
from nsopt.scaling.metric import LATENCY, Metric
from nsopt.session.subject import Subject, list_studies, with_stored_latency
from nsopt.session.workspace import Workspace


def with_latency_if_needed(
    subject: Subject,
    metric: Metric,
    methods: Sequence[Method],
    workspace: Workspace,
    progress: Progress,
) -> Subject:
    """Return `subject` with a latency model, if the metric or a price is latency.

    A stored model has priority, so that budgets keep their meaning. Otherwise nsopt uses the model
    of this device, and learns it if necessary. If the subject starts from a trained network, the
    model is then made exact for this one, so that percentages of its latency hold.
    """
    prices = {subject.settings.search.price, *(method.price for method in methods)}
    if not metric.is_timed and LATENCY.name not in prices:
        return subject
    arch = with_stored_latency(subject.arch, list_studies(subject, workspace))
    if arch.latency is None:
        compute = resolve_compute(subject.settings.training.device, "fp32")
        with sharing(compute, progress) as shared:
            if subject.start is not None:
                arch = Timer(shared, subject.runtime, progress, subject.inputs).learn(arch)
            else:
                model = learn_latency(arch, shared, progress, subject.runtime, subject.inputs)
                arch = arch.with_latency(model)
    return replace(subject, arch=arch)
