"""What the site takes from beside this folder: studies, benchmarks, and figures that the gallery's
code draws."""

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from nsopt.reports.page import fragment

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("studies", "benchmarks")
PLOTLY = "plotly-basic.min.js"
_HOME, _GALLERY = "index.md", "gallery.md"
_FIGURE = "![Test accuracy against parameters, VGG11 on CIFAR-10](figures/parameters.svg)"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every text, number and picture of the two folders, and Plotly for the gallery."""
    for folder in BESIDE:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in {".md", ".csv", ".json", ".png", ".py"}:
                name = str(file.relative_to(ROOT))
                files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, name, content=convert_notebook(notebook.read_text())))
    reports = str(ROOT / "nsopt" / "reports")
    files.append(File(PLOTLY, reports, config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Point links that leave this folder, as a repository shows them, to the pages of the site."""
    if page.file.src_uri == _GALLERY:
        markdown = add_figures(markdown)
    if page.file.src_uri == _HOME:
        markdown = link_titles(markdown.replace("<!-- figure -->", _FIGURE), config.nav or [])
    if "/" not in page.file.src_uri:
        for folder in BESIDE:
            markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown


def convert_notebook(text: str) -> str:
    """Return a notebook as Markdown: its text, its code, and what the code showed."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = {"text/plain": output.get("text", "")} | output.get("data", {})
            if "text/html" in data:
                parts.append(f"<div>{''.join(data['text/html'])}</div>")
            elif shown := "".join(data["text/plain"]).rstrip():
                begun = (
                    parts.pop().removesuffix("```") if parts[-1][:7] == "```text" else "```text\n"
                )
                parts.append(f"{begun}{shown}\n```")
    return "\n\n".join(parts)


def link_titles(markdown: str, nav: list[Any]) -> str:
    """Link the titles of pages in the cells of a table.

    The home page is the description of the package, too, where links to pages lead nowhere.
    """
    for entry in nav:
        for title, target in entry.items():
            if isinstance(target, list):
                markdown = link_titles(markdown, target)
            else:
                markdown = markdown.replace(f"| {title} |", f"| [{title}]({target}) |")
    return markdown


def add_figures(markdown: str) -> str:
    """Run the Python of the gallery; put each figure in place of the comment that names it."""
    sys.path.insert(0, str(ROOT / "docs" / "figures"))
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", markdown, re.M | re.S):
        exec(block, found)

    def draw(match: re.Match[str]) -> str:
        figure = found[match[1]]
        drawn = f'<div style="min-width: {least_width(figure)}">{fragment(figure, match[1])}</div>'
        return f'<div style="overflow-x: auto">{drawn}</div>'

    drawn = re.sub(r"<!-- figure: (\w+) -->", draw, markdown)
    return f'<script src="{PLOTLY}"></script>\n\n{drawn}'


def least_width(figure: Any) -> str:
    """Return how wide a figure must be: one with panels scrolls on a narrow page."""
    return "62rem" if "xaxis2" in figure.layout else "0"
