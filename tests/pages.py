"""Reports as a browser reads them, and what all of them must keep to."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from jobs.report import write_report

VOID_ELEMENTS = {"meta", "img", "br", "rect", "line", "polyline"}


@dataclass
class Page(HTMLParser):
    """A page: its elements with their attributes, and its text."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID_ELEMENTS:
            assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "dd"):
            self.text += " "

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(output: str) -> Page:
    """The report of an output, made anew."""
    page = Page()
    page.feed(Path(write_report(output)).read_text())
    page.close()
    assert page.open == []
    page.text = " ".join(page.text.split())
    return page


def check_is_safe_and_usable(page: Page) -> None:
    """Nothing runs and nothing is fetched; each picture has words; each link leads somewhere."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "link", "object", "form")
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
        href = attributes.get("href")
        assert href is None or href.startswith(("file:///", "../masks/")) or href[1:] in ids, href
    policy = next(one["content"] for one in page.all("meta") if "http-equiv" in one)
    assert "default-src 'none'" in policy
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["aria-labelledby"] in ids for one in page.all("svg"))
    for one in page.all("div"):
        assert one.get("class") != "scroll" or (one["tabindex"] == "0" and one["aria-label"])
