"""The pages of sweeps and evaluations in a real browser: within the screen, read in light and dark, by keyboard."""

from itertools import pairwise

import pytest
from helpers.evaluations import evaluation_of, figures
from helpers.opened import CONTRAST, Opened
from helpers.reports import HOSTILE
from helpers.sweeps import cell, models, sweep_of, without_result

from vit_export.report.evaluation_page import evaluation_page
from vit_export.report.sweep_page import sweep_page

pytestmark = pytest.mark.slow

PAGES = ("sweep", "undecided", "hostile", "evaluation", "hostile-evaluation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages")
    hostile = [cell(name, 5.0 + n, model=name, report=name, accuracy=0.7) for n, name in enumerate(HOSTILE)]
    hostile.append(without_result("x" * 200, "failed", "y" * 300))
    files = [figures(name, lost=90 * bool(n)) for n, name in enumerate(HOSTILE)]
    command = "vit-export sweep sweep.toml --max-ms 25 --max-drop 0.5"
    pages = {
        "sweep": sweep_page({**sweep_of(models(), max_ms=25, max_drop=0.5), "commands": [command]}),
        "undecided": sweep_page(sweep_of(models())),
        "hostile": sweep_page({**sweep_of(hostile, max_ms=9), "commands": HOSTILE}),
        "evaluation": evaluation_page(evaluation_of()),
        "hostile-evaluation": evaluation_page(
            evaluation_of(files, data="d" * 200, unreadable=[[name, name] for name in HOSTILE])
        ),
    }
    for name, page in pages.items():
        (path / f"{name}.html").write_text(page, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_nothing_is_complained_of_and_it_is_no_wider_than_the_screen(name, browser, folder):
    for width in (390, 1200):
        with Opened(browser, folder / f"{name}.html", width) as opened:
            opened.unfold()
            opened.page.wait_for_timeout(50)
            assert opened.requests == [(folder / f"{name}.html").as_uri()]
            assert opened.complaints == opened.dialogs == []
            assert opened.run("document.documentElement.scrollWidth") <= width
            beyond = opened.run("""() => [...document.querySelectorAll('h1, h2, h3, p, li, dd, pre, figure, svg.plot')]
                .filter(e => !e.closest('.scroll, nav, .aside, .skip') && e.getClientRects().length)
                .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => e.outerHTML.slice(0, 80))""")
            assert beyond == []
            lost = opened.run("""() => [...document.querySelectorAll('svg.plot text')].filter(t => {
                const own = t.getBoundingClientRect(), card = t.closest('.card').getBoundingClientRect();
                return own.left < card.left || own.right > card.right || own.bottom > card.bottom;
            }).map(t => t.textContent)""")
            assert lost == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["sweep", "undecided", "evaluation"])
def test_every_text_can_be_read(name, scheme, browser, folder):
    with Opened(browser, folder / f"{name}.html", color_scheme=scheme) as opened:
        opened.unfold()
        found = opened.run(CONTRAST)
        assert len(found) > 50
        assert [text for text in found if text[0] < 4.5] == []


@pytest.mark.parametrize("name", ["sweep", "evaluation"])
def test_the_keyboard_reaches_every_point_and_the_point_its_row(name, browser, folder):
    with Opened(browser, folder / f"{name}.html") as opened:
        points = opened.run("[...document.querySelectorAll('svg.plot a')].map(a => a.getAttribute('aria-label'))")
        reached = set()
        for _ in range(60):
            opened.page.keyboard.press("Tab")
            reached.add(opened.run("document.activeElement.getAttribute('aria-label')"))
            if opened.run("document.activeElement.namespaceURI.endsWith('svg')"):
                assert opened.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert points
        assert set(points) <= reached
        opened.run("document.querySelector('svg.plot a').focus()")
        opened.page.keyboard.press("Enter")
        assert opened.run("document.querySelectorAll('tr:target').length") == 1
        levels = opened.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
        assert all(b - a <= 1 for a, b in pairwise(levels))
        links = opened.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href').slice(1))")
        assert links == opened.run("[...document.querySelectorAll('section')].map(s => s.id)")
