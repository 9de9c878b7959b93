"""The docs as a site: all pages are in it, nothing on them leads nowhere, and nothing comes from another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

from jobs import settings_file
from jobs.commands import COMMANDS

pytest.importorskip("material", reason="needs the extra `docs`")
ROOT = Path(__file__).parents[2]
SOURCES = [Path("README.md"), *sorted(one.relative_to(ROOT) for one in (ROOT / "docs").rglob("[!R]*.md"))]
LOADING = {"audio", "embed", "iframe", "img", "object", "script", "source", "track", "video"}
"""Elements whose `src` a browser loads without a click; so it does most `link`s' `href`."""


class Page(HTMLParser):
    """The ids, links and loaded files of a page, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"])
        if tag in LOADING:
            self.loaded += [found[name] for name in ("src", "data", "poster") if found.get(name)]
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_of_the_docs_can_be_reached_from_the_start(site, pages):
    start = site / "index.html"
    reached = {
        (start.parent / urlsplit(link).path).resolve() for link in pages[start].links if not urlsplit(link).netloc
    }
    for page in (ROOT / "docs").rglob("*.md"):
        built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (built.with_name("index.html") if page.name == "README.md" else built) in reached, page
    assert site / "settings.html" in reached


def test_every_link_leads_to_a_file_and_every_anchor_to_a_place_in_it(pages):
    wrong = []
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                wrong.append((path.name, link))
    assert not wrong


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_lists_tables_and_blocks_are_those_of_github(site, source):
    """markdown-it reads Markdown by GitHub's rules, which differ from MkDocs' in lists."""
    built = site / ("index.html" if source.name == "README.md" else source.relative_to("docs").with_suffix(".html"))
    article = built.read_text().partition("<article")[2].partition("</article>")[0]
    expected = MarkdownIt("commonmark").enable("table").render((ROOT / source).read_text())
    for tag in ("h2", "h3", "ul", "ol", "li", "tr", "pre", "img"):
        assert len(re.findall(rf"<{tag}[ >]", article)) == len(re.findall(rf"<{tag}[ >]", expected)), tag


def test_no_page_loads_anything_from_another_host(site, pages):
    assert not [(path.name, one) for path, page in pages.items() for one in page.loaded if urlsplit(one).netloc]
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text().replace('"', "").replace("'", ""), sheet
        assert "url(//" not in sheet.read_text(), sheet


def test_the_page_of_settings_has_each_setting_of_each_command(site, pages):
    page = pages[site / "settings.html"]
    ends = [f"{one.name}¶" for one in COMMANDS[1:]] + ["\0"]
    for command, end in zip(COMMANDS, ends, strict=True):
        assert command.name in page.ids
        text = (page.text + "\0").partition(f"{command.name}¶")[2].partition(end)[0]
        assert f"deconvnet {command.name}" in text
        for name in settings_file.names_of(command.config):
            shown = name.upper() if name == command.subject else f"--{settings_file.option_of(name)}"
            assert shown in text, (command.name, name)
