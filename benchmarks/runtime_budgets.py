"""A trained network at a share of its milliseconds where it ships: which widths are best there?

Uniform scaling, the law of pruning by importance, the law by importance per millisecond, and the
law that scored best for this budget (as in `nsopt.compress`) inherit from the same trained network
and are fine-tuned in the same way. All keep the budget as timed. Prints test accuracy, and how far
the scored law is ahead of each other method, with 90 % intervals over seeds; writes
`RUNTIME-SHARE.csv`. It continues where it stopped.

Needs the optional dependency: pip install 'nsopt[export]'.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # it also runs as a file

import pandas as pd

from benchmarks.trained import Dense, add_arguments, read_images, train_dense
from nsopt.compression.budgets import read_words
from nsopt.compression.compress import PRESET
from nsopt.compression.pipeline import prepare, run_compression
from nsopt.latency.runtime import choose_runtime
from nsopt.methods.registry import get_methods
from nsopt.reports.results import read_results
from nsopt.reports.tables import with_deviation
from nsopt.reports.words import paired_difference
from nsopt.session.presets import get_preset, override
from nsopt.session.session import start_session
from nsopt.session.subject import Subject, with_precision
from nsopt.session.workspace import Workspace
from nsopt.storage.schema import SCORED, width_key
from nsopt.study.compare import run_comparison
from nsopt.study.comparison import Comparison, Size
from nsopt.terminal import show_progress

_LAWS = get_methods(("neuralscale", "neuralscale-latency"))


def compare(dense: Dense, options: argparse.Namespace) -> pd.DataFrame:
    """Return a row for each fine-tuning, and one for the trained network."""
    folder = options.folder / f"{dense.name}-{options.runtime}-{options.share}"
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(f"sqlite:///{folder / 'study.db'}", folder)
    runtime = choose_runtime(options.runtime, None, options.batch)
    settings = override(get_preset(PRESET).settings, {"training": {"epochs": options.epochs}})
    with show_progress(None) as progress:
        subject = Subject.of(dense.arch, dense.data, settings, dense.model, runtime)
        subject = with_precision(subject, workspace)
        asked = read_words([f"latency={options.share}"])
        run_compression(subject, asked, options.candidates, options.seeds, workspace, progress)
        with start_session(subject, workspace, progress) as begun:
            session, solvers = prepare(begun, asked)
        sizes = tuple(Size(each.budget.metric, each.budget.limit) for each in solvers)
        comparison = Comparison(session.subject, _LAWS, sizes, options.seeds)
        run_comparison(comparison, workspace, progress)
    rows = read_results(workspace.url, subject.name).outcomes
    return rows.assign(network=dense.name, widths=rows["widths"].map(width_key))


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a line for each network and method, as text."""
    lines = []
    for network, found in rows.groupby("network", sort=False):
        tests = found.pivot_table(index="seed", columns="method", values="test_score")
        for method, own in found.groupby("method", sort=False):
            ahead = paired_difference(tests[SCORED], tests[method])
            lead = f"{ahead.mean:+.2f} ({ahead.interval})" if ahead else ""
            test = own["test_score"]
            lines.append(
                {
                    "network": network,
                    "widths by": method,
                    "n": len(own),
                    "test %": with_deviation(test.mean(), test.std()),
                    "scored is ahead by": "" if method == SCORED else lead,
                    "MACs": f"{own['macs'].mean():,.0f}",
                    "ms": f"{own['latency_ms'].mean():.2f}",
                    "widths": own["widths"].iloc[0],
                }
            )
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--share", default="50%", help="of the milliseconds")
    parser.add_argument("--batch", type=int, default=100, help="images per timed batch")
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data = read_images(options)
    trained = [train_dense(name, data, options.folder) for name in options.networks]
    rows = pd.concat([compare(dense, options) for dense in trained])
    rows.to_csv(options.folder / f"{options.runtime}-{options.share}.csv", index=False)
    print(summarise(rows).to_string(index=False))


if __name__ == "__main__":
    main()
