import dataclasses
import re
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsopt.latency.record import Latency
from nsopt.methods.registry import methods
from nsopt.reports import dashboard
from nsopt.reports.figures import (
    collect_points,
    draw_pareto,
    draw_widths,
    find_front,
    method_styles,
    pareto_mask,
)
from nsopt.reports.page import render
from nsopt.reports.results import LATENCY_COLUMNS, Results, _read_latencies
from nsopt.reports.tables import (
    size_of,
    summary,
    with_deviation,
    write_csv,
    write_table,
)
from nsopt.reports.words import answer
from nsopt.scaling.metric import format_ms, short_number
from nsopt.storage.schema import write_latency


def test_small_milliseconds_keep_their_digits() -> None:
    assert [format_ms(ms) for ms in (11.137, 0.0676)] == ["11.14", "0.068"]


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path: Path) -> None:
    """Names come from networks and plug-ins; numbers may be below 0."""
    names = ["=1+1", "+1", "-cmd", "@SUM(A1)", "\t=1", "conv1", "a=b", ""]
    columns = {"layer": names, "=name": pd.Categorical(names), "beta": np.linspace(-1, 1, 8)}
    write_table(pd.DataFrame(columns), tmp_path / "laws.csv")
    table = pd.read_csv(tmp_path / "laws.csv", keep_default_na=False)
    quoted = [f"'{name}" for name in names[:5]] + names[5:]
    assert table["layer"].tolist() == table["'=name"].tolist() == quoted
    np.testing.assert_allclose(table["beta"], columns["beta"])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_pareto_front_has_the_undominated_points(points: list[tuple[int, int]]) -> None:
    cost, value = np.array(points, dtype=float).T
    mask = pareto_mask(cost, value)
    assert mask.any()
    for i, kept in enumerate(mask):
        beaten = any(
            cost[j] <= cost[i]
            and value[j] >= value[i]
            and (cost[j] < cost[i] or value[j] > value[i])
            for j in range(len(points))
        )
        assert kept != beaten


def test_the_summary_has_means_and_deviations_over_seeds(results: Results) -> None:
    table = summary(results)
    assert len(table) == 4
    row = table.query("method == 'uniform' and budget == 4000").iloc[0]
    assert row["n"] == 2
    assert row["val_mean"] == pytest.approx(54.5)
    assert row["val_std"] == pytest.approx(np.std([54, 55], ddof=1))
    assert row["test_mean"] == pytest.approx(53.5)
    assert (row["test_min"], row["test_max"]) == (53, 54)


def test_equal_numbers_of_parameters_and_macs_are_separate_budgets(results: Results) -> None:
    macs = results.outcomes.assign(metric="macs", test_score=10.0)
    outcomes = pd.concat([macs, results.outcomes], ignore_index=True)
    both = dataclasses.replace(results, outcomes=outcomes)
    table = summary(both)
    assert list(zip(table["metric"], table["budget"], strict=True)) == [
        (metric, budget) for metric in ("params", "macs") for budget in (1000, 4000) for _ in "12"
    ]
    assert [verdict.text.split(" ")[0] for verdict in answer(both)] == ["0.25x", "1x"] * 2
    titles = [title.text for title in draw_widths(both).layout.annotations]
    assert titles == ["0.25x", "1x", "0.25x MACs", "1x MACs"]
    assert set(table["n"]) == {2}
    assert set(table.query("metric == 'macs'")["test_mean"]) == {10.0}


@pytest.mark.parametrize(
    ("budget", "metric", "ratio", "label"),
    [
        (600_000, "params", None, "600,000 params"),
        (600_000.0, "params", None, "600,000 params"),
        (20.0, "latency", None, "20 ms"),
        (600_000, "params", 0.25, "0.25x"),
        (600_000, "macs", 0.25, "0.25x MACs"),
        (20.0, "latency", 0.25, "0.25x latency"),
    ],
)
def test_ratios_name_a_metric(budget: float, metric: str, ratio: float | None, label: str) -> None:
    assert size_of({"budget": budget, "metric": metric, "ratio": ratio}) == label


def test_a_single_seed_has_no_deviation() -> None:
    assert with_deviation(79.634, 0.04) == "79.63 ± 0.04"
    assert with_deviation(79.634, float("nan")) == "79.63"


@pytest.mark.parametrize(
    ("value", "text"),
    [(116, "116"), (999.6, "1k"), (580_123, "580k"), (999_600, "1M"), (15_512_345, "15.5M")],
)
def test_short_numbers_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert short_number(value) == text


def test_the_front_is_chosen_by_validation_accuracy(results: Results) -> None:
    front, *others = draw_pareto(results).data
    assert front.x == (1.0, 2.0, 8.0)  # uniform at 4 ms and 54.5 % loses to 2 ms and 54.5 %
    assert front.y == (51.5, 54.5, 57.5)
    assert len(others) == 2 * 2
    assert len(find_front(results)) == 3


def test_the_hover_text_describes_a_training(results: Results) -> None:
    text = collect_points(results, "params", "test_score")[1].trials["text"].iloc[0]
    for part in ("NeuralScale", "0.25x", "seed 0", "2-7"):
        assert part in text


def test_each_budget_has_a_group_of_widths(results: Results) -> None:
    figure = draw_widths(results)
    assert [title.text for title in figure.layout.annotations] == ["0.25x", "1x"]
    shown = [(bar.name, bar.y) for bar in figure.data[2:]]
    assert shown == [("Uniform", (8, 16)), ("NeuralScale", (8, 19))]
    assert [bar.showlegend for bar in figure.data] == [True] * 2 + [False] * 2  # each method once


def test_no_two_methods_look_the_same() -> None:
    names = [*methods(), *(f"neuralscale-iter{i}" for i in range(1, 5)), "neuralscale-macs", "own"]
    styles = list(method_styles(names).values())
    assert len(set(styles)) == len(styles)
    assert len({style.symbol for style in styles}) == len(styles)


@pytest.mark.parametrize(
    ("metric", "first"), [("params", "params"), ("macs", "macs"), ("latency", "pareto")]
)
def test_the_first_figure_shows_the_budgets(metric: str, first: str, results: Results) -> None:
    outcomes = results.outcomes.assign(metric=metric)
    page = render(dataclasses.replace(results, outcomes=outcomes), [])
    drawn = re.findall(r'id="figure-(\w+)"', page)
    assert drawn[0] == first
    assert "pareto" in drawn[:2]


def test_the_hover_text_of_a_mean_names_its_number_of_seeds(results: Results) -> None:
    means = collect_points(results, "latency_ms", "score")[1].means
    assert "NeuralScale, 0.25x</b>, mean of 2" in means["text"].iloc[0]


def test_the_page_escapes_names_that_users_chose(results: Results) -> None:
    page = render(results, ["outcomes.csv"])
    visible = page[page.index("<body>") :]
    assert "<b>data</b>" not in visible
    assert "<script>alert" not in visible
    assert "uniform <i>" not in visible
    assert "&lt;b&gt;data&lt;/b&gt;" in visible


def test_the_page_counts_trainings(
    results: Results,
) -> None:
    page, count = render(results, []), len(results.outcomes)
    assert f"{count} trainings." in page
    alone = results.outcomes.iloc[[0, -1]].reset_index(drop=True)
    alone.loc[1, ["method", "metric", "cost_latency"]] = "dense", "params", 2.0
    page = render(dataclasses.replace(results, outcomes=alone), [])
    assert "1 training." in page
    assert "predicted" not in page[page.index("<h2>Results</h2>") :]


def test_the_page_loads_no_other_page_and_warns_of_a_short_protocol(results: Results) -> None:
    page = render(results, [])
    assert "short protocol <b>quick</b>" in page
    for key in ("pareto", "params", "widths"):
        assert f'id="figure-{key}"' in page
    visible = page[page.index("<body>") :]
    assert 'src="http' not in page
    assert "54.50 ± 0.71" in visible
    assert "uniform &lt;i&gt;: the loss became nan" in visible


def test_the_page_lists_the_settings_that_took_part(results: Results) -> None:
    used = {"search": {"lr": 0.1}, "start": 5}
    given = dataclasses.replace(results, settings=results.settings | used)
    assert "search.lr" in render(given, [])
    page = render(dataclasses.replace(given, searches={}), [])
    assert "search.lr" not in page
    assert "checksum of its weights 5" in page


def test_csv_files_contain_the_numbers(results: Results, tmp_path: Path) -> None:
    names = write_csv(results, tmp_path)
    assert names == ["outcomes.csv", "summary.csv", "epochs.csv", "record.csv", "laws.csv"]
    assert pd.read_csv(tmp_path / "outcomes.csv")["widths"].iloc[0] == "2-4"
    record = pd.read_csv(tmp_path / "record.csv")
    assert record[["first", "second"]].to_numpy().tolist() == (
        results.searches["search"][0].record.widths.tolist()
    )
    laws = pd.read_csv(tmp_path / "laws.csv")
    np.testing.assert_allclose(laws["alpha"], results.searches["search"][0].law.alpha, rtol=1e-14)


def test_notes_contain_answer_and_numbers_and_escape_names(results: Results) -> None:
    text = dashboard.describe_outcomes(results)
    row = "| 0.25x | uniform | 2 | 990 | 7k | 1.00 | 50.50 ± 0.71 | 51.50 ± 0.71 |"
    assert row in text.splitlines()
    verdicts = [str(verdict) for verdict in answer(results)]
    assert len(verdicts) == 2
    assert all(verdict in text for verdict in verdicts)
    trap = results.outcomes.replace({"method": {"neuralscale": "<b>"}})
    assert "<b>" not in dashboard.describe_outcomes(dataclasses.replace(results, outcomes=trap))


def test_figures_show_the_budgets_at_which_most_methods_were_trained(results: Results) -> None:
    outcomes = results.outcomes.query("method == 'uniform' or budget == 4000")
    fewer = dataclasses.replace(results, outcomes=outcomes)
    assert results.compared == [("params", 1000), ("params", 4000)]
    assert fewer.compared == [("params", 4000)]
    dense = results.outcomes.query("budget == 4000").assign(method="dense")
    more = dataclasses.replace(results, outcomes=pd.concat([dense, results.outcomes]))
    assert more.compared == results.compared
    assert dataclasses.replace(results, outcomes=dense).compared == [("params", 4000)]
    assert [title.text for title in draw_widths(fewer).layout.annotations] == ["1x"]


def test_names_of_studies_add_no_code_to_the_page(results: Results) -> None:
    trap = 'search-</script><script>alert(1)</script>" onclick="'
    named = dataclasses.replace(
        results,
        outcomes=results.outcomes.replace({"method": {"neuralscale": trap}}),
        searches={trap: results.searches["search"]},
    )
    page = render(named, [])
    assert "<script>alert" not in page
    assert '" onclick="' not in page


def test_latencies_are_the_newest_of_the_trained_networks() -> None:
    older, newer = optuna.create_study(), optuna.create_study()
    timed = Latency(2.0, 100, 80, "cpu", when="2026-01-01", widths=(1, 2))
    write_latency(newer, dataclasses.replace(timed, median_ms=3.0, when="2026-01-02"))
    write_latency(older, timed)
    write_latency(older, dataclasses.replace(timed, widths=(9, 9)))
    studies = {"uniform": newer, "neuralscale": older}
    rows = _read_latencies(studies, [("uniform", (1, 2)), ("uniform", (1, 2))])
    assert rows[["method", "widths", "median_ms"]].values.tolist() == [["uniform", "1-2", 3.0]]
    assert _read_latencies(studies, []).columns.tolist() == LATENCY_COLUMNS
