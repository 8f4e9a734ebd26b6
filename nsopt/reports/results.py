"""Read a comparison from storage into tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nsopt.errors import NsoptError, unknown_name
from nsopt.latency.record import CONDITIONS, Latency
from nsopt.methods.registry import DENSE, method_order
from nsopt.scaling.record import Iteration
from nsopt.settings import BATCH_SIZE, batch_unit
from nsopt.storage import schema, trials
from nsopt.storage.opening import existing_storage, hide_password
from nsopt.storage.studies import comparisons, load_studies, only_comparison

LATENCY_COLUMNS = ["method", "widths", *CONDITIONS, "repeats", "median_ms", "spread", "ratio"]
LATENCY_COLUMNS += ["when"]


@dataclass(frozen=True, eq=False)
class Results:
    """A comparison as it was measured.

    Attributes:
        outcomes: one row per completed trial, with the schema's columns and `widths` (a tuple).
        latencies: one row per method, widths and conditions.
        failures: label and reason of failed trials.
        curves: one row per trial and epoch.
        searches: iterations in order, by the kind of their study.
        networks: of a compression, the trained one first; empty for other comparisons.
        candidates: the widths that it compared, by the budget in words.
        split: share of the images of a folder that nsopt chose for training; None if it did not.
    """

    name: str
    task: schema.TaskDescription
    settings: dict[str, Any]
    provenance: dict[str, dict[str, Any]]
    outcomes: pd.DataFrame
    latencies: pd.DataFrame
    failures: pd.DataFrame
    curves: pd.DataFrame
    searches: dict[str, list[Iteration]]
    networks: Sequence[schema.NetworkRow] = ()
    candidates: Sequence[tuple[str, schema.StoredCandidate]] = ()
    split: float | None = None

    @property
    def is_trained(self) -> bool:
        """Whether networks were trained, unlike in a compression that only fits them."""
        return (self.settings.get("training") or {}).get("epochs") != 0

    @property
    def final(self) -> str:
        """The column that reports compare: the test score, or without a test the validation's."""
        return "test_score" if self.task.has_test else "score"

    @property
    def final_name(self) -> str:
        """Its name in sentences."""
        if not self.task.score_name:
            return "test accuracy"
        return f"test {self.task.score_name}" if self.task.has_test else self.task.score_name

    @property
    def final_epoch(self) -> str:
        """Which epoch it is of."""
        kept = (self.settings.get("training") or {}).get("keep_best")
        return "best epoch by validation" if kept else "last epoch"

    @property
    def final_axis(self) -> str:
        """Its name on axes."""
        return self.final_name if self.task.score_name else f"{self.final_name} (%)"

    def show_score(self, score: float) -> str:
        return f"{score:.4g}" if self.task.score_name else f"{score:.1f} %"

    @property
    def image_counts(self) -> dict[str, int]:
        """The number of images in each part of the data; empty if the data are not images."""
        data = self.settings.get("data", {})
        return data if self.task.classes is not None else {}

    @property
    def batch_unit(self) -> str:
        return batch_unit(self.settings.get("latency_batch_size", BATCH_SIZE))

    @property
    def latency_unit(self) -> str:
        """The unit of its latencies, with what ran the networks if that is not PyTorch."""
        return ", ".join([self.batch_unit, *(name for name in self.runtimes if name != "torch")])

    @property
    def runtimes(self) -> list[str]:
        """What ran the networks for its latencies, such as torch or `onnxruntime 1.31.1`."""
        known = self.outcomes.get("latency_runtime", pd.Series(dtype=object)).dropna().unique()
        return list(map(str, known))

    @property
    def methods(self) -> list[str]:
        """Methods with outcomes, baselines first."""
        return method_order(self.outcomes["method"].unique().tolist())

    @property
    def compared(self) -> list[tuple[str, float]]:
        """The metrics and budgets at which most methods were trained, without the network of base
        widths, unless there is nothing else."""
        chosen = self.outcomes[self.outcomes["method"] != DENSE.name]
        shown = self.outcomes if chosen.empty else chosen
        methods = shown.groupby(["metric", "budget"])["method"].nunique()
        return list(methods[methods == methods.max()].index)


def read_results(url: str, name: str | None = None, storage: BaseStorage | None = None) -> Results:
    """Read the comparison `name` at a URL, by default the only one there.

    `storage` is that of the URL, if it is open. Raises NsoptError if the comparison is missing or
    has no completed trial.
    """
    storage = storage or existing_storage(url)
    name = name or only_comparison(storage)
    if schema.is_tuning(name):
        raise NsoptError(f"{name} is a tuning: run optuna-dashboard {hide_password(url)}")
    studies = load_studies(storage, name)
    if not studies:
        raise unknown_name("study", name, comparisons(storage))
    compared = {method: study for method, study in studies.items() if not schema.is_search(method)}
    points = [
        (study, trial, point)
        for study in compared.values()
        for trial in study.get_trials(deepcopy=False)
        if (point := trials.read_point(trial)) is not None
    ]
    done = [(study, trial) for study, trial, _ in points if trial.state == TrialState.COMPLETE]
    failures = [
        {"label": point.label, "reason": reason}
        for _, trial, point in points
        if (reason := trials.read_failure(trial)) is not None
    ]
    if not compared:
        raise NsoptError(f"{name} is a search alone: use nsopt widths, or nsopt study for its law")
    if not done and failures:
        first = failures[0]
        raise NsoptError(f"every training of {name} failed: {first['label']}: {first['reason']}")
    if not done:
        raise NsoptError(
            f"{name} at {hide_password(url)} has no completed trial yet: run its command again, or "
            "name another storage="
        )
    task, settings = schema.read_task(done[0][0]), schema.read_settings(done[0][0])
    needed = ("params", "macs", "score", *(["test_score"] if task.has_test else ()))
    outcomes = pd.DataFrame(
        [
            trials.read_outcome(trial, needed)
            | {"widths": trials.read_widths(trial, task.layer_names)}
            for _, trial in done
        ]
    ).astype({"ratio": float, "beyond_record": float})  # None where there is none
    sizes = {(point.metric.name, point.budget): point.size for _, _, point in points}
    whole = compared.get(schema.DENSE)  # the trained network of a compression
    latencies = _read_latencies(compared, zip(outcomes["method"], outcomes["widths"], strict=True))
    return Results(
        name=name,
        task=task,
        settings=settings,
        provenance={method: trials.read_all_provenance(study) for method, study in studies.items()},
        outcomes=add_latencies(outcomes, latencies, settings["latency_batch_size"]),
        latencies=latencies,
        failures=pd.DataFrame(failures, columns=["label", "reason"]),
        curves=pd.concat([_read_curves(trial) for _, trial in done], ignore_index=True),
        searches={
            kind: iterations
            for kind, study in studies.items()
            if schema.is_search(kind) and (iterations := trials.read_iterations(study))
        },
        networks=schema.read_networks(whole) if whole else (),
        candidates=[
            (size, candidate)
            for key, size in sizes.items()
            for candidate in (schema.read_candidates(whole, *key) if whole else ())
        ],
        split=schema.read_source(done[0][0]).split,
    )


def _read_latencies(
    studies: Mapping[str, Study], trained: Iterable[tuple[str, tuple[int, ...]]]
) -> pd.DataFrame:
    """Return the newest latencies of networks under all conditions, by method and widths."""
    stored = [each for study in studies.values() for each in schema.read_latencies(study)]
    rows = pd.DataFrame(map(asdict, stored), columns=list(Latency.__dataclass_fields__))
    rows = rows.sort_values("when", kind="stable")
    newest = rows.drop_duplicates(["widths", *CONDITIONS], keep="last")
    networks = pd.DataFrame(list(dict.fromkeys(trained)), columns=["method", "widths"])
    merged = networks.merge(newest, on="widths")
    return merged.assign(widths=merged["widths"].map(schema.width_key))[LATENCY_COLUMNS]


def add_latencies(outcomes: pd.DataFrame, latencies: pd.DataFrame, batch_size: int) -> pd.DataFrame:
    """Return the outcomes with comparable latencies, all timed under the same conditions.

    Of batches of this size, it takes the conditions that cover most trainings, and the latest of
    equal ones. Other trainings get no latency. If the storage has no conditions, nothing changes.
    """
    keys = outcomes["widths"].map(schema.width_key)
    batches = latencies[latencies["batch_size"] == batch_size]
    groups = [group for _, group in batches.groupby(CONDITIONS, dropna=False)]
    if not groups:
        return outcomes
    best = max(groups, key=lambda rows: (keys.isin(rows["widths"]).sum(), max(rows["when"])))
    matched = best.drop_duplicates("widths").set_index("widths").reindex(keys)
    numbers = {"latency_ms": "median_ms", "latency_spread": "spread"}
    return outcomes.assign(
        latency_runtime=matched["runtime"].to_numpy(),
        **{name: matched[source].to_numpy(dtype=float) for name, source in numbers.items()},
    )


def _read_curves(trial: FrozenTrial) -> pd.DataFrame:
    frame, numbers = pd.DataFrame(trials.read_curves(trial)), trials.read_outcome(trial)
    for position, name in enumerate(("method", "metric", "budget", "seed")):
        frame.insert(position, name, numbers[name])
    frame.insert(4, "epoch", range(1, len(frame) + 1))
    return frame
