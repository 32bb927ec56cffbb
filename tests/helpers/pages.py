"""Pages taken apart, and what is true of each of them."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), its text, and whether every element is closed."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.texts, self.unbalanced = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", "".join(self.texts))

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self, tag):
        return [attributes["id"] for attributes in self.of(tag) if "id" in attributes]


def sound(page, addresses=("#", "data:image/jpeg;base64,")):
    """The parsed page, after the promises that every page keeps; its links begin with one of `addresses`."""
    parsed = Page(page)
    assert parsed.open == parsed.unbalanced == []
    page.encode("utf-8")
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", (tag, value)  # the policy would not let it count
            if name in ("src", "href", "srcset", "action", "data", "poster"):
                assert value.startswith(addresses), (tag, name, value)
    assert len(parsed.of("script")) == len(parsed.of("style")) == len(parsed.of("h1")) == 1
    assert not {tag for tag, _ in parsed.elements} & {"link", "iframe", "object", "embed", "form", "base"}
    assert "None" not in parsed.text
    return parsed
