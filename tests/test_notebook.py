"""What Jupyter shows of results, and while it waits."""

import numpy as np

from nsopt import PowerLaw, SearchResult
from nsopt.notebook import make_html_table
from nsopt.progress import NotebookProgress
from nsopt.scaling.record import Iteration, Trajectory

LAW = PowerLaw(np.array([1.0, 2.0]), np.array([0.25, 0.5]), np.array([0.9, 0.97]))
RESULT = SearchResult(
    (Iteration(Trajectory(np.array([[8, 16], [4, 8]]), np.array([100, 50])), LAW, (8, 16), 1.5),)
)


class Handle:
    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(data)


def test_results_print_in_one_line() -> None:
    assert repr(LAW) == "PowerLaw(2 layers, beta 0.25 to 0.5, r2 0.9 to 0.97)"
    assert repr(RESULT) == f"SearchResult(iterations=1, law={LAW})"


def test_results_are_tables_in_a_notebook() -> None:
    law, result = LAW._repr_html_(), RESULT._repr_html_()
    assert "<td>2</td><td>2</td><td>0.500</td><td>0.970</td>" in law
    assert "<td>1</td><td>1</td><td>1.5</td><td>8-16</td><td>0.900</td>" in result


def test_tables_escape_their_text() -> None:
    table = make_html_table([{"<b>": "a & b"}], "<script>")
    assert "<th>&lt;b&gt;</th>" in table
    assert "<td>a &amp; b</td>" in table
    assert "<script>" not in table


def test_a_notebook_shows_a_bar_that_ends() -> None:
    handle = Handle()
    bar = NotebookProgress(handle)
    bar.overall(0, 2)
    bar.start("<pruning>", 2)
    bar.advance()
    bar.advance("loss 0.3")
    assert handle.shown[-1] == {
        "text/plain": "step 1 of 2: <pruning> 2/2 loss 0.3",
        "text/html": '<progress value="2" max="2"></progress> '
        "step 1 of 2: &lt;pruning&gt; 2/2 loss 0.3",
    }
    bar.finish()
    assert handle.shown[-1] == {"text/plain": ""}
