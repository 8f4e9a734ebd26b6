"""Claim: killed at any moments, a study ends with the results of an uninterrupted one.

Runs a short study of digits again and again, and kills it (SIGKILL) after random times: with
workers, the command or a worker of it. A study that completes is compared with an uninterrupted
one: the record, the law, and the accuracies of every point, each trained once. Prints how many
kills there were, and how many studies were completed in between.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

from benchmarks.common import show
from nsopt.reports.results import read_results
from nsopt.storage.opening import open_storage
from nsopt.storage.studies import load_studies
from nsopt.storage.trials import is_settled

_STUDY = (
    *("--methods=uniform,magnitude,neuralscale", "--ratios=0.02,0.03", "--seeds=2"),
    *("--epochs=2", "--pretrain-epochs=1", "--prune-every=2", "--filters-per-step=200"),
    *("--batch-size=32", "--per-class=60", "--precision=fp32", "--device=cpu"),
)
_NAME = "vgg11-digits-60each-smoke"
_LONGEST_RUN = 20.0


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "nsopt", "study", *_STUDY]
    return subprocess.Popen(
        [*command, f"--out={folder}", f"--workers={workers}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def results(folder: Path) -> dict[str, Any]:
    """What a completed study found, without what a clock decides."""
    url = f"sqlite:///{folder / 'study.db'}"
    found = read_results(url, _NAME)
    columns = ["method", "budget", "seed", "widths", "val_accuracy", "test_accuracy"]
    points = found.outcomes[columns].sort_values(["method", "budget", "seed"])
    studies = load_studies(open_storage(url), _NAME)
    settled = sum(is_settled(trial) for study in studies.values() for trial in study.trials)
    return {
        "points": points.to_numpy().tolist(),
        "iterations": [{**i.to_dict(), "seconds": 0} for i in found.searches["search"]],
        "settled trials": settled,
        "files": sorted(path.name for path in folder.iterdir()),
    }


def worker_of(process: subprocess.Popen[bytes]) -> int | None:
    """The process of a worker that the command has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def kill_after(process: subprocess.Popen[bytes], seconds: float, worker: bool) -> bool:
    """Kill a study, or the worker of one; whether it was still running."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        victim = worker_of(process) if worker else None
        os.kill(victim or process.pid, signal.SIGKILL)
        if victim is None:
            process.wait()
        return True
    return False


def measure(kills: int, workers: int, seed: int, folder: Path) -> dict[str, float]:
    generator = random.Random(seed)
    if start(folder / "whole", 1).wait() != 0:
        raise SystemExit("the uninterrupted study failed")
    expected = results(folder / "whole")
    done, completed = 0, 0
    while done < kills:
        out = folder / f"killed{completed}"
        while done < kills:
            process = start(out, workers)
            worker = workers > 1 and generator.random() < 0.5
            if not kill_after(process, generator.uniform(0.5, _LONGEST_RUN), worker):
                break
            done += 1
            process.wait()
        if start(out, workers).wait() != 0:
            raise SystemExit(f"after {done} kills the study in {out} does not complete")
        found = results(out)
        differing = [f"{name}: {found[name]}" for name in found if found[name] != expected[name]]
        if differing:
            raise SystemExit(f"after {done} kills a study differs in {'; '.join(differing)}")
        completed += 1
    return {"kills": done, "workers": workers, "studies_completed_and_equal": completed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 kills instead of 25")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = 3 if options.quick else 25
        show(measure(kills, options.workers, options.seed, Path(folder)), options.json)


if __name__ == "__main__":
    main()
