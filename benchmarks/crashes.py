"""Claim: killed at any moments, a study of two workers ends with what an uninterrupted one finds.

So does a compression (`--command compress`). A sequence runs a short study of digits by all
methods, or a compression to two budgets, and kills (SIGKILL) the command or its worker once or
twice, at random moments or while it writes a checkpoint or a kept network, whose file is then left
half written. The study that completes is compared with an uninterrupted one: the searches, the
accuracies of every point, each trained once, the weights, seeds and widths of the kept networks,
and the files that are left.

So that a sequence takes seconds, its processes are forked, the network is narrow, latencies are
timed with few passes, fine-tuning is shorter, checkpoints are written ten times a second,
heartbeats are shorter, and no report is drawn. `--log FILE` keeps what has been done: the same
command goes on from there.
"""

import argparse
import hashlib
import importlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import torch

from benchmarks.common import show
from benchmarks.killed_processes import Kill, in_fork, run
from nsopt.cli import compress, console
from nsopt.cli.app import main as main_of_nsopt
from nsopt.compute import checkpoint
from nsopt.deployment.artifacts import BestNetworks, best_trials
from nsopt.deployment.kept import read_weights
from nsopt.latency import measure as timed
from nsopt.models import vgg
from nsopt.models.architecture import Architecture
from nsopt.models.vgg import vgg11
from nsopt.reports.results import read_results
from nsopt.session import presets
from nsopt.storage import engine, opening
from nsopt.storage.schema import is_search
from nsopt.storage.studies import load_studies
from nsopt.storage.trials import needs_retry
from tests.rescaled import with_base_widths

_TASK = (
    *("--preset=smoke", "--per-class=12", "--batch-size=32", "--epochs=1", "--pretrain-epochs=1"),
    *("--prune-every=1", "--filters-per-step=12", "--precision=fp32", "--device=cpu"),
)
_METHODS = ("uniform", "magnitude", "morphnet", "neuralscale")
_SEARCH = ("search", *(word for word in _TASK if word != "--epochs=1"))
_STUDY = (
    *("study", f"--methods={','.join(_METHODS)}", "--ratios=0.5", "--seeds=2", "--workers=2"),
    *_TASK,
)
_COMPRESSION = (
    *("--per-class=12", "--batch-size=32", "--epochs=1", "--averaging=0"),
    *("--prune-every=1", "--filters-per-step=12", "--precision=fp32", "--device=cpu"),
    "--candidates=3",
)
_NARROWER = 16
_LEAST_STEPS = 20  # of fine-tuning
_SLOWEST = 900.0  # seconds
_MOST = {"artifacts": 8, "checkpoints": 60}  # writes of a process there, about


def narrow(num_classes: int, image_size: int, in_channels: int) -> Architecture:
    """VGG11 with a sixteenth of the filters."""
    arch = vgg11(num_classes, image_size, in_channels)
    return with_base_widths(arch, tuple(width // _NARROWER for width in arch.base_widths))


def make_quick() -> None:
    """Change this process, and all that it forks, as described above."""
    torch.set_num_threads(1)
    for module, name, value in (
        (vgg, "vgg11", narrow),
        *((timed, name, 2) for name in ("_WARMUP", "_FEWEST", "_USUAL", "_MOST")),
        (checkpoint, "SECONDS_BETWEEN", 0.1),
        (engine, "HEARTBEAT_SECONDS", 1),
        (engine, "DEAD_AFTER_LOOKS", 6),
        (engine, "POLL_SECONDS", 0.5),
        (console, "has_extra", lambda name: False),
        (compress, "_choose_forms", lambda subject, tries: []),
    ):
        setattr(module, name, value)
    preset = presets._PRESETS["compress"]
    training = preset.settings.training.updated(least_steps=_LEAST_STEPS)
    quick = preset.settings.updated(training=training)
    presets._PRESETS["compress"] = replace(preset, settings=quick)


def imported_by(arguments: Sequence[str]) -> list[str]:
    """Run a command; the modules that it needed."""
    with redirect_stdout(io.StringIO()):
        main_of_nsopt(arguments)
    return list(sys.modules)


def results(out: Path) -> dict[str, Any]:
    """What a completed study found, without what a clock decides."""
    url = f"sqlite:///{out / 'study.db'}"
    found = read_results(url)
    columns = ["method", "budget", "seed", "widths", "score", "test_score"]
    points = found.outcomes[columns].sort_values(["method", "budget", "seed"])
    studies = load_studies(opening.open_storage(url), found.name)
    settled = sum(not needs_retry(trial) for study in studies.values() for trial in study.trials)
    kept = BestNetworks(out / "artifacts")
    networks = [
        network(kept.file(study, trial))
        for name, study in sorted(studies.items())
        if not is_search(name)
        for _, trial in sorted(best_trials(study).items())
    ]
    searches = {
        name: [{**iteration.to_dict(), "seconds": 0} for iteration in iterations]
        for name, iterations in found.searches.items()
    }
    return {
        "points": points.to_numpy().tolist(),
        "searches": searches,
        "settled trials": settled,
        "kept networks": networks,
        "files": sorted(path.name for path in out.iterdir()),
        "number of kept files": len(list((out / "artifacts").iterdir())),
    }


def network(path: Path) -> dict[str, Any]:
    """What a kept network is: its facts, and a digest of its weights."""
    content = read_weights(path)
    digest = hashlib.sha256()
    for name, tensor in content.pop("state").items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return content | {"weights": digest.hexdigest()}


def kills(generator: random.Random, seconds: float) -> list[Kill]:
    """One or two moments to kill at. seconds: that an uninterrupted study takes."""
    found = []
    for _ in range(generator.randint(1, 2)):
        worker, inside = generator.random() < 0.5, generator.choice((None, *_MOST))
        if inside is None:
            found.append(Kill(worker, seconds=generator.uniform(0.0, seconds)))
        else:
            found.append(Kill(worker, inside, int(_MOST[inside] ** generator.random())))
    return found


def prepare(command: str, folder: Path) -> Sequence[str]:
    """Prepare a folder in which sequences begin, and import what they need; the command's words."""
    if command == "study":
        needed = in_fork(imported_by, [*_SEARCH, f"--out={folder / 'out'}"])
        words: Sequence[str] = _STUDY
    else:
        weights = folder.parent / "trained.pt"
        torch.manual_seed(0)
        arch = narrow(10, 32, 1)
        torch.save(arch.build(arch.base_widths).state_dict(), weights)
        base = ("compress", f"--weights={weights}", *_COMPRESSION)
        first = ("--budgets=macs=50%", f"--out={folder.parent / 'first'}")
        needed = in_fork(imported_by, [*base, *first])
        words = (*base, "--budgets=macs=50%,params=40%", "--seeds=2", "--workers=2")
        (folder / "out").mkdir()
    for module in needed:
        with suppress(ImportError):
            importlib.import_module(module)
    return words


def run_sequence(words: Sequence[str], folder: Path, planned: list[Kill]) -> list[Kill]:
    """Run a command to its end in `folder`; those of the planned kills that came in time."""
    done: list[Kill] = []
    for kill in [*planned, None]:
        code = run(
            [*words, f"--out={folder / 'out'}"], folder / "out", folder / "log", kill, _SLOWEST
        )
        killed = (folder / "log").read_text().count("a worker was killed")
        if kill and (code < 0 or killed > sum(each.worker for each in done)):
            done.append(kill)
        if code == 0:
            return done
        if code > 0:
            raise SystemExit(f"a command failed after {done}: see {folder / 'log'}")
    raise SystemExit(f"the study was not completed: see {folder / 'log'}")


def measure(command: str, sequences: int, seed: int, folder: Path, log: Path) -> dict[str, Any]:
    make_quick()
    begin, whole = folder / "begin", folder / "whole"
    for place in (begin, whole):
        place.mkdir()
    words = prepare(command, begin)
    shutil.copytree(begin / "out", whole / "out")
    started = time.perf_counter()
    run_sequence(words, whole, [])
    seconds = time.perf_counter() - started
    expected = in_fork(results, whole / "out")
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    while len(known) < sequences:
        number = len(known)
        place = folder / f"sequence{number}"
        generator = random.Random(f"{seed}-{number}")
        done: list[Kill] = []
        while not done:  # an uninterrupted study shows nothing
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(begin, place)
            done = run_sequence(words, place, kills(generator, seconds))
        found = in_fork(results, place / "out")
        differing = [f"{name}: {found[name]}" for name in found if found[name] != expected[name]]
        if differing:
            raise SystemExit(f"sequence {number} in {place} differs after {done}: {differing}")
        known.append({"number": number, "kills": [asdict(kill) for kill in done]})
        with log.open("a") as file:
            file.write(json.dumps(known[-1]) + "\n")
    shutil.rmtree(folder)
    came = [kill for each in known for kill in each["kills"]]
    return {
        "sequences_completed_and_equal": len(known),
        "kills": len(came),
        "kills_of_workers": sum(kill["worker"] for kill in came),
        **{f"kills_writing_{name}": sum(kill["inside"] == name for kill in came) for name in _MOST},
        "seconds_of_an_uninterrupted_study": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 sequences instead of 100")
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--command", choices=("study", "compress"), default="study")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="where to note what is done, and to go on from")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))  # stays after a difference
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    log = options.log or folder / "log.jsonl"
    sequences = 3 if options.quick else options.sequences
    show(measure(options.command, sequences, options.seed, folder, log), options.json)


if __name__ == "__main__":
    main()
