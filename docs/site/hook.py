"""What MkDocs does for this project beside rendering `docs/`: pages that are made of other files.

README.md is the start page, the settings of all commands are a page, and so is each file outside `docs/` that a page
links to. None of these is kept: they are made at each build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from settings_page import settings_page  # beside this file, where MkDocs looks for a hook's modules

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
"""The path in a link or an image, without its anchor."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    readme = (ROOT / "README.md").read_text()
    texts = {"README.md": readme} | {f"docs/{one.src_uri}": one.content_string for one in files.documentation_pages()}
    targets = {_target(source, link) for source, text in texts.items() for link in LINK.findall(text)}
    outside = {one for one in targets if not one.startswith("docs/")}
    files.append(File.generated(config, "index.md", content=readme))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    for target in sorted(outside - {"README.md"}):
        if (ROOT / target).exists():  # else the link stays as it is, and MkDocs warns
            page = File.generated(
                config, _page_uri(target), content=_source_page(target), inclusion=InclusionLevel.NOT_IN_NAV
            )
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to pages of the site that lead to files outside `docs/`."""
    uri = page.file.src_uri
    if uri == "settings.md" or uri.startswith("source/"):
        return markdown
    source = "README.md" if uri == "index.md" else f"docs/{uri}"

    def on_site(link: re.Match[str]) -> str:
        target = _target(source, link[1])
        if not (ROOT / target).exists():
            return link[1]
        return os.path.relpath(_page_uri(target), str(PurePosixPath(uri).parent))

    return LINK.sub(on_site, _with_inner_lists(markdown))


def _with_inner_lists(markdown: str) -> str:
    """Lists inside lists by four spaces, as MkDocs reads them; GitHub needs two. Blocks of code stay as they are."""
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        one if one.startswith("```") else re.sub("^  - ", "    - ", one, flags=re.MULTILINE) for one in parts
    )


def _target(source: str, link: str) -> str:
    """The file, from the project's root, that a link on a page leads to."""
    return os.path.normpath(PurePosixPath(source).parent / link)


def _page_uri(target: str) -> str:
    """The file of the site that stands for a file of the project."""
    if target == "README.md":
        return "index.md"
    return target.removeprefix("docs/") if target.startswith("docs/") else f"source/{target}.md"


def _source_page(target: str) -> str:
    """A page that shows a file, or the files of a folder."""
    path = ROOT / target
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    blocks = [
        f"## {one.relative_to(ROOT)}\n\n````{one.suffix.removeprefix('.')}\n{one.read_text()}\n````" for one in files
    ]
    return "\n\n".join([f"---\nsearch:\n  exclude: true\n---\n\n# {target}", *blocks]) + "\n"
