"""The report and the dashboard in a real browser: figures drawn, no console error."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsopt import Architecture, ImageData, Silent
from nsopt.reports.dashboard import publish
from nsopt.reports.page import write_report
from nsopt.reports.results import read_results
from nsopt.session.workspace import Workspace
from nsopt.study.plan import run_comparison
from tests.conftest import free_port
from tests.forked import start_nsopt
from tests.study.test_comparison import (
    SETTINGS,
    make_comparison,
    make_workspace,
    only,
    with_settings,
)

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(DRIVER is None, reason="Chromium's driver is not installed")
SECONDS = 60
Browser = Any  # selenium need not be there


@pytest.fixture(scope="module")
def place(
    narrow: Architecture, digits: ImageData, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Two methods, stored, reported and published."""
    place = make_workspace(tmp_path_factory.mktemp("browser"))
    smoke = with_settings(make_comparison(narrow, digits), SETTINGS.updated(preset="smoke"))
    run_comparison(only(smoke, "uniform", "neuralscale"), place, Silent())
    results = read_results(place.url)
    write_report(results, place.folder / "report")
    publish(results, place.url)
    return place


@pytest.fixture(scope="module")
def folder(place: Workspace) -> Path:
    return place.folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from selenium.common.exceptions import WebDriverException

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    except WebDriverException as error:
        pytest.skip(f"Chromium does not start here: {error.msg}")
    chrome.set_window_size(1400, 2400)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def dashboard(place: Workspace) -> Iterator[str]:
    """The address of a running dashboard."""
    port = free_port()
    command = ["dashboard", f"--storage={place.url}", f"--port={port}"]
    with start_nsopt(*command) as process:
        yield f"http://127.0.0.1:{port}/dashboard"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=SECONDS)


def wait(browser: Browser, *texts: str, figures: int = 0) -> str:
    """Wait until the page shows texts and figures; return its text."""
    from selenium.webdriver.support.ui import WebDriverWait

    def shown(_: object) -> str | bool:
        text = str(browser.execute_script("return document.body.innerText"))
        drawn = browser.execute_script(
            "return [...document.querySelectorAll('.js-plotly-plot')]"
            ".filter(plot => plot.querySelector('.scatterlayer .trace, .barlayer .trace')).length"
        )
        return text if all(part in text for part in texts) and drawn >= figures else False

    return str(WebDriverWait(browser, SECONDS).until(shown))


def assert_silent(browser: Browser) -> None:
    """Assert that the console contains no message."""
    assert browser.get_log("browser") == []


def open_page(browser: Browser, address: str) -> None:
    """Open a page; try again until the server has started."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.support.ui import WebDriverWait

    def opened(_: object) -> bool:
        with contextlib.suppress(WebDriverException):
            browser.get(address)
            return True
        return False

    WebDriverWait(browser, SECONDS).until(opened)


def test_the_report_draws_its_figures(browser: Browser, folder: Path) -> None:
    browser.get((folder / "report" / "index.html").as_uri())
    text = wait(browser, "vgg11-digits-smoke", "NeuralScale", figures=3)
    assert "validation" in text
    assert_silent(browser)


def test_the_dashboard_shows_studies_and_compares_them(browser: Browser, dashboard: str) -> None:
    open_page(browser, dashboard)
    browser.get_log("browser")  # refused connections, while the server started
    browser.refresh()
    wait(browser, "vgg11-digits-smoke/uniform", "vgg11-digits-smoke/search")
    assert_silent(browser)
    browser.get(f"{dashboard}/compare-studies?ids=2,3")
    wait(
        browser,
        "Best Value of vgg11-digits-smoke/neuralscale",
        "EDF for latency (ms per batch of 100)",
        figures=3,
    )
    assert_silent(browser)


def test_the_dashboard_shows_notes_and_figures(browser: Browser, dashboard: str) -> None:
    open_page(browser, f"{dashboard}/studies/1")
    browser.get_log("browser")
    browser.refresh()
    wait(browser, "conv8")
    browser.get(f"{dashboard}/studies/3")
    wait(browser, "Pareto front", "settings", figures=4)
    browser.get(f"{dashboard}/studies/3/note")
    wait(browser, "short protocol", "val %")
    browser.get(f"{dashboard}/studies/3/trials")
    wait(browser, "Complete", "score", "latency_ms", "feasible")
    assert_silent(browser)
