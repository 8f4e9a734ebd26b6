"""The studies and benchmarks, which are beside this folder, become pages of the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("studies", "benchmarks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every text, number and picture of the two folders."""
    for folder in BESIDE:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in {".md", ".csv", ".json", ".png", ".py"}:
                name = str(file.relative_to(ROOT))
                files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links that leave this folder, as a repository shows them, to the pages of the site."""
    if "/" not in page.file.src_uri:
        for folder in BESIDE:
            markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown
