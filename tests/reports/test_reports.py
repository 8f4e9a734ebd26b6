import dataclasses
import re
from pathlib import Path

import numpy as np
import optuna
import optuna_dashboard
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsopt.errors import NsoptError
from nsopt.methods.registry import methods
from nsopt.reports import dashboard
from nsopt.reports.accuracy import (
    collect_points,
    draw_accuracy,
    draw_dots,
    draw_pareto,
    find_front,
    pareto_mask,
)
from nsopt.reports.dashboard import describe_outcomes, note
from nsopt.reports.law import RECORDED, draw_law
from nsopt.reports.page import render
from nsopt.reports.results import Results, read_results
from nsopt.reports.style import log_axis, method_styles
from nsopt.reports.tables import (
    size_of,
    summary,
    with_deviation,
    write_csv,
    write_table,
)
from nsopt.reports.widths import draw_widths
from nsopt.reports.words import answer
from nsopt.scaling.metric import format_ms, short_number


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
def test_the_pareto_front_contains_exactly_the_undominated_points(
    points: list[tuple[int, int]],
) -> None:
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
def test_a_ratio_names_its_metric(
    budget: float, metric: str, ratio: float | None, label: str
) -> None:
    assert size_of({"budget": budget, "metric": metric, "ratio": ratio}) == label


def test_a_single_seed_has_no_deviation() -> None:
    assert with_deviation(79.634, 0.04) == "79.63 ± 0.04"
    assert with_deviation(79.634, float("nan")) == "79.63"


def test_a_point_without_a_latency_is_not_timed(results: Results) -> None:
    outcomes = results.outcomes.assign(latency_ms=[np.nan] * 2 + [4.0] * 6)
    uniform, other = collect_points(
        dataclasses.replace(results, outcomes=outcomes), "params", "test_score"
    )
    lines = [text.split("<br>") for text in (*uniform.trials["text"], *uniform.means["text"])]
    timed = ["4.00 ms per batch of 100" for _ in range(2)]
    assert [line[-2] for line in lines] == ["not timed", "not timed", *timed, "not timed", timed[0]]
    assert all("4.00 ms per batch of 100" in text for text in other.trials["text"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(116, "116"), (999.6, "1k"), (580_123, "580k"), (999_600, "1M"), (15_512_345, "15.5M")],
)
def test_short_numbers_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert short_number(value) == text


def test_a_front_of_one_point_says_so(results: Results) -> None:
    words = "The front is a single point"
    assert words not in render(results, [])
    alone = results.outcomes["latency_ms"] == results.outcomes["latency_ms"].max()
    one = results.outcomes[alone]
    assert words in render(dataclasses.replace(results, outcomes=one), [])


def test_the_front_is_chosen_by_validation_accuracy(results: Results) -> None:
    front, *others = draw_pareto(results).data
    assert front.x == (1.0, 2.0, 8.0)  # uniform at 4 ms and 54.5 % loses to 2 ms and 54.5 %
    assert front.y == (51.5, 54.5, 57.5)
    assert len(others) == 2 * 2
    assert len(find_front(results)) == 3


def test_bands_reach_from_the_worst_seed_to_the_best(results: Results) -> None:
    uniform = collect_points(results, "params", "test_score")[0]
    assert uniform.method == "uniform"
    assert uniform.means["x"].tolist() == [990, 3990]
    assert uniform.means[["low", "high"]].values.tolist() == [[50, 51], [53, 54]]


def test_bands_have_no_points_and_records_are_opaque(results: Results) -> None:
    bands = [trace for trace in draw_accuracy(results).data if trace.fill]
    assert [trace.mode for trace in bands] == ["lines"] * 2
    law = draw_law(results, "search")
    records = [trace for trace in law.data if trace.mode == "markers"]
    assert len(records) == 2
    assert all(trace.marker.opacity is None for trace in records)
    assert all(title.font.color is None for title in law.layout.annotations)  # as the page has it


def test_the_hover_text_describes_a_training(results: Results) -> None:
    text = collect_points(results, "params", "test_score")[1].trials["text"].iloc[0]
    for part in (
        "NeuralScale",
        "0.25x",
        "seed 0",
        "2-7",
        "990 parameters",
        "7,000 MACs",
        "2.00 ms",
    ):
        assert part in text


def test_each_budget_has_a_group_of_widths(results: Results) -> None:
    figure = draw_widths(results)
    assert [title.text for title in figure.layout.annotations] == ["0.25x", "1x"]
    shown = [(bar.name, bar.y) for bar in figure.data[2:]]
    assert shown == [("Uniform", (8, 16)), ("NeuralScale", (8, 19))]
    assert [bar.showlegend for bar in figure.data] == [True] * 2 + [False] * 2  # each method once


def test_the_line_of_a_law_is_solid_only_within_its_record(results: Results) -> None:
    line, recorded, rows = draw_law(results, "search").data[:3]
    record = results.searches["search"][0].record
    assert rows.y.tolist() == record.widths[:, 0].tolist()
    assert recorded.x.tolist() == line.x[RECORDED].tolist()
    assert recorded.x[[0, -1]] == pytest.approx([record.tau.min(), record.tau.max()])
    assert line.x[[0, -1]] == pytest.approx([min(record.tau.min(), 990), 3990])
    with_reference = results.outcomes.query("method == 'uniform'").assign(params=100_000)
    more = dataclasses.replace(results, outcomes=pd.concat([results.outcomes, with_reference]))
    assert draw_law(more, "search").data[0].x.tolist() == line.x.tolist()


def test_the_law_is_drawn_beside_uniform_scaling(results: Results) -> None:
    figure = draw_law(results, "search")
    assert len(figure.data) == 3 * 2  # extrapolation, line, rows
    plain, relative = (button["args"][0]["y"] for button in figure.layout.updatemenus[0].buttons)
    for part, widths, ratios in zip(figure.data, plain, relative, strict=True):
        assert list(part.y) == pytest.approx(widths)
        assert len(ratios) == len(part.x)
    uniform = 90 * np.sqrt(figure.data[2].x / 1260)
    assert relative[2] == pytest.approx((figure.data[2].y / uniform).tolist())


def test_no_two_methods_look_the_same() -> None:
    names = [*methods(), *(f"neuralscale-iter{i}" for i in range(1, 5)), "neuralscale-macs", "own"]
    styles = list(method_styles(names).values())
    assert len(set(styles)) == len(styles)
    assert len({style.symbol for style in styles}) == len(styles)


@given(low=st.floats(1e-3, 1e9), factor=st.floats(1, 1e4))
def test_logarithmic_axes_have_readable_ticks(low: float, factor: float) -> None:
    axis = log_axis([low, low * factor], "MACs")
    assert 3 <= len(axis["tickvals"]) <= 12
    assert len(set(axis["ticktext"])) == len(axis["ticktext"])
    start, end = axis["range"]
    assert all(start <= np.log10(tick) <= end for tick in axis["tickvals"])
    assert "log scale" in axis["title"]["text"]


def test_each_method_has_a_row_if_there_is_one_budget(results: Results) -> None:
    one = dataclasses.replace(results, outcomes=results.outcomes.query("budget == 1000"))
    figure = draw_dots(one)
    assert set(figure.layout.yaxis.categoryarray) == {"Uniform", "NeuralScale"}
    means = [trace for trace in figure.data if trace.error_x.array is not None]
    assert [list(trace.x) for trace in means] == [[50.5], [53.5]]
    assert means[0].error_x.array[0] == pytest.approx(np.std([50, 51], ddof=1))
    page = render(one, [])
    assert 'id="figure-dots"' in page
    assert 'id="figure-params"' not in page


@pytest.mark.parametrize(
    ("metric", "first"),
    [("params", "params"), ("macs", "macs"), ("latency", "pareto")],
)
def test_the_first_figure_shows_the_metric_of_the_budgets(
    metric: str, first: str, results: Results
) -> None:
    outcomes = results.outcomes.assign(metric=metric)
    page = render(dataclasses.replace(results, outcomes=outcomes), [])
    drawn = re.findall(r'id="figure-(\w+)"', page)
    assert drawn[0] == first
    assert "pareto" in drawn[:2]


def test_tables_begin_with_accuracy(results: Results) -> None:
    head = render(results, []).partition("<h2>Results</h2>")[2].partition("</tr>")[0]
    names = re.findall(r"<th[^>]*>([^<]*)</th>", head)
    assert names[:5] == ["size", "method", "test (%)", "ms", "validation (%)"]


def test_the_hover_text_of_a_mean_names_its_number_of_seeds(results: Results) -> None:
    means = collect_points(results, "latency_ms", "score")[1].means
    assert "below" in means
    for part in ("NeuralScale, 0.25x, mean of 2", "990 parameters", "2.00 ms", "54.50 ± 0.71"):
        assert part in means["text"].iloc[0]


def test_the_page_escapes_names_that_users_chose(results: Results) -> None:
    page = render(results, ["outcomes.csv"])
    visible = page[page.index("<body>") :]
    assert "<b>data</b>" not in visible
    assert "<script>alert" not in visible
    assert "uniform <i>" not in visible
    assert "&lt;b&gt;data&lt;/b&gt;" in visible


def test_the_page_counts_trainings_and_names_a_winner_only_where_there_is_one(
    results: Results,
) -> None:
    page, count = render(results, []), len(results.outcomes)
    assert f"{count} trainings." in page
    assert "The winner was selected" in page
    alone = results.outcomes.iloc[[0, -1]].reset_index(drop=True)
    alone.loc[1, ["method", "metric", "cost_latency"]] = "dense", "params", 2.0
    page = render(dataclasses.replace(results, outcomes=alone), [])
    assert "1 training." in page
    assert "The winner" not in page
    assert "predicted" not in page[page.index("<h2>Results</h2>") :]


def test_the_page_loads_no_other_page_and_warns_of_a_short_protocol(results: Results) -> None:
    page = render(results, [])
    assert "short protocol <b>quick</b>" in page
    for key in ("pareto", "params", "widths", "search"):
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


def test_a_report_on_a_missing_storage_raises_an_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(NsoptError, match="nothing is stored"):
        read_results(url)
    assert list(tmp_path.iterdir()) == []


def test_notes_contain_question_protocol_and_numbers(results: Results) -> None:
    text = note(results, "neuralscale", results.settings, describe_outcomes(results))
    assert "Which method is ahead at a small size?" in text
    assert "**Protocol** (quick): epochs 3" in text
    row = "| 0.25x | Uniform | 2 | 990 | 7k | 1.00 | 50.50 ± 0.71 | 51.50 ± 0.71 |"
    assert row in text.splitlines()
    assert "A short protocol" in text
    assert "| 1 | 90-36 | 7 | 1 |" in note(results, "search", results.settings, "")


def test_notes_escape_names_that_users_chose(results: Results) -> None:
    text = note(results, "uniform", results.settings, describe_outcomes(results))
    assert "net-&lt;b&gt;data&lt;/b&gt;-smoke" in text
    assert "<b>" not in text


def test_notes_repeat_the_answers_of_the_terminal(results: Results) -> None:
    verdicts = [str(verdict) for verdict in answer(results)]
    assert len(verdicts) == 2
    own = results.settings, describe_outcomes(results)
    assert all(verdict in note(results, "uniform", *own) for verdict in verdicts)
    assert all(verdict not in note(results, "search", *own) for verdict in verdicts)


def test_notes_name_the_settings_of_each_study(results: Results) -> None:
    search = {"preset": "quick", "search": {"price": "macs"}}
    assert "(quick): price macs" in note(results, "search", search, "")
    pruned = {"magnitude_epochs": 7, "fine_tune_epochs": 2, "fine_tune_lr": 0.01}
    inherits = "from one that trained for 7 epochs, and are fine-tuned for 2, at"
    assert inherits in note(results, "magnitude", results.settings | pruned, "")
    assert inherits not in note(results, "uniform", results.settings | pruned, "")
    assert inherits not in note(results, "magnitude", results.settings | pruned | {"start": 5}, "")


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


def test_a_search_without_an_iteration_gets_no_note(
    results: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    studies = {kind: optuna.create_study() for kind in ("uniform", "search", "search-macs")}
    monkeypatch.setattr(dashboard, "load_studies", lambda storage, name: studies)
    dashboard.publish(results, f"sqlite:///{tmp_path}/s.db")
    notes = [optuna_dashboard.get_note(study) for study in studies.values()]
    assert [bool(note) for note in notes] == [True, True, False]


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


def test_the_unscaled_network_has_a_row(results: Results) -> None:
    task = dataclasses.replace(results.task, base_params=12_345, base_macs=678_900)
    page = render(dataclasses.replace(results, task=task), [])
    assert '<td>1x</td><td class="text">net itself, not among those compared</td>' in page
    assert "<td>12,345</td><td>678,900</td>" in page
    trained = dataclasses.replace(task, base_widths=results.outcomes["widths"].iloc[-1])
    for known in (results.task, trained):
        assert "net itself" not in render(dataclasses.replace(results, task=known), [])
