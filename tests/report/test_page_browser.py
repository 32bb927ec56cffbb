"""report.html in a real browser: nothing is fetched, nothing hostile runs, it fits a telephone, it can be read."""

import io
from dataclasses import replace
from itertools import pairwise

import pytest
from helpers.opened import CONTRAST, Opened
from helpers.reports import hostile_report, report_of, verification
from PIL import Image

from vit_export.report.page import images_shown, write_page

pytestmark = pytest.mark.slow


def picture():
    data = io.BytesIO()
    Image.new("RGB", (160, 120), (40, 90, 160)).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pages of a report with everything in it, of one that passes, of one with hostile names, of an empty one."""
    path = tmp_path_factory.mktemp("pages")
    advice = {
        "kind": "scheme",
        "files": ["toy_int8.onnx"],
        "text": "another int8 scheme keeps more of the answers",
        "command": f"vit-export --weights {'flowers-of-the-alps' * 4} --onnx --int8 --int8-scheme w8a16 --overwrite",
    }
    full = report_of(verification(32), advice=[advice])
    passing = replace(verification(), files=tuple(file for file in verification().files if file.passed))
    reports = {"full": full, "pass": report_of(passing), "hostile": hostile_report(), "empty": {}}
    for name, report in reports.items():
        write_page(report, dict.fromkeys(images_shown(report), picture()), path / f"{name}.html")
    return path


@pytest.mark.parametrize("name", ["full", "hostile", "pass", "empty"])
def test_nothing_is_fetched_nothing_is_complained_of_and_nothing_hostile_runs(name, browser, folder):
    with Opened(browser, folder / f"{name}.html") as opened:
        opened.unfold()
        opened.page.wait_for_timeout(50)
        outside = [url for url in opened.requests if not url.startswith("data:image/jpeg")]
        assert outside == [(folder / f"{name}.html").as_uri()]
        assert opened.complaints == opened.dialogs == []
        assert opened.run("document.scripts.length") == 1
        assert opened.run("document.querySelectorAll('img[src=x], [onerror], [onload], iframe').length") == 0


def test_the_policy_stops_what_escaping_would_have_let_through(browser, folder, tmp_path):
    path = tmp_path / "open.html"
    page = (folder / "full.html").read_text(encoding="utf-8")
    planted = "<script>window.ran = 1</script><img src=x onerror='window.ran = 2'><p style='color: red' id=p>p</p>"
    path.write_text(page.replace("</main>", f"{planted}</main>"), encoding="utf-8")
    with Opened(browser, path) as opened:
        opened.page.wait_for_timeout(50)
        assert opened.run("window.ran") is None
        assert opened.run("getComputedStyle(document.getElementById('p')).color") != "rgb(255, 0, 0)"
        assert any("Content Security Policy" in text for text in opened.complaints)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("width", [pytest.param(320, marks=SLOW), 360, pytest.param(768, marks=SLOW), 1280])
@pytest.mark.parametrize("name", ["full", "hostile"])
def test_the_page_is_no_wider_than_the_screen(name, width, browser, folder):
    with Opened(browser, folder / f"{name}.html", width) as opened:
        opened.unfold()
        assert opened.run("document.documentElement.scrollWidth") <= width
        # What is wide scrolls in a box of its own; all else ends within the screen.
        beyond = opened.run("""() => [...document.querySelectorAll('h1, h2, h3, h4, p, li, dd, pre, figure, svg.plot')]
            .filter(e => !e.closest('.scroll, nav, .aside, .skip') && e.getClientRects().length)
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
            .map(e => e.outerHTML.slice(0, 80))""")
        assert beyond == []


@pytest.mark.parametrize("width", [360, 1280])
def test_what_is_written_in_charts_stays_on_its_card(width, browser, folder):
    with Opened(browser, folder / "full.html", width) as opened:
        lost = opened.run("""() => [...document.querySelectorAll('svg.plot text')].filter(t => {
            const own = t.getBoundingClientRect(), card = t.closest('.card').getBoundingClientRect();
            return own.left < card.left || own.right > card.right || own.top < card.top || own.bottom > card.bottom;
        }).map(t => t.textContent)""")
        assert lost == []
        assert opened.run("document.querySelectorAll('svg.plot').length") == 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [pytest.param(360, marks=SLOW), 1280])
def test_every_text_can_be_read(scheme, width, browser, folder):
    for name in ("full", "pass", "empty"):
        with Opened(browser, folder / f"{name}.html", width, color_scheme=scheme) as opened:
            opened.unfold()
            found = opened.run(CONTRAST)
            assert len(found) > 5
            assert [text for text in found if text[0] < 4.5] == []


def test_dark_mode_is_dark_and_print_is_light(browser, folder):
    paper = "getComputedStyle(document.body).backgroundColor"
    with Opened(browser, folder / "full.html", color_scheme="light") as opened:
        light = opened.run(paper)
    with Opened(browser, folder / "full.html", color_scheme="dark") as opened:
        dark = opened.run(paper)
        opened.page.emulate_media(media="print", color_scheme="dark")
        printed = opened.run(paper)
        assert opened.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert sum(map(int, light[4:-1].split(","))) > 600
    assert sum(map(int, dark[4:-1].split(","))) < 150
    assert printed == "rgb(255, 255, 255)"


def test_every_section_is_seen_and_reached(browser, folder):
    with Opened(browser, folder / "full.html") as opened:
        sections = opened.run(
            "[...document.querySelectorAll('section')].map(s => [s.id, s.getBoundingClientRect().height])"
        )
        assert len(sections) == 11
        assert all(height > 60 for _, height in sections)
        links = opened.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href').slice(1))")
        assert links == [name for name, _ in sections]
        assert opened.run("[...document.querySelectorAll('section')].every(s => document.getElementById("
                          "s.getAttribute('aria-labelledby')).textContent)")  # fmt: skip
        levels = opened.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert opened.run("[...document.querySelectorAll('th')].every(t => t.scope)")
        assert opened.run("[...document.querySelectorAll('svg.plot')].every(s => s.getAttribute('role') === 'img'"
                          " && s.getAttribute('aria-labelledby').split(' ').every(i => document.getElementById(i)"
                          ".textContent))")  # fmt: skip


def test_the_keyboard_reaches_everything(browser, folder):
    with Opened(browser, folder / "full.html") as opened:
        reached = set()
        for _ in range(80):
            opened.page.keyboard.press("Tab")
            at = "const e = document.activeElement; "
            reached.add(
                opened.run(f"(() => {{ {at} return e.dataset.copy || e.getAttribute('href') || e.tagName }})()")
            )
            outlined = opened.run(f"(() => {{ {at} return getComputedStyle(e).outlineStyle }})()")
            assert outlined != "none" or opened.run("document.activeElement === document.body")
        assert {"#main", "#files", "SUMMARY", "command-1", "command-2"} <= reached


@pytest.mark.parametrize("clipboard", ["new", "old"])
def test_the_button_copies_the_command(clipboard, browser, folder):
    with Opened(browser, folder / "full.html", permissions=["clipboard-read", "clipboard-write"]) as opened:
        if clipboard == "old":
            opened.run("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
        opened.page.click("button[data-copy=command-2]")
        opened.page.wait_for_function("document.getElementById('copied').textContent === 'Copied to the clipboard.'")
        assert opened.page.inner_text("button[data-copy=command-2]") == "Copied"
        assert opened.run("navigator.clipboard.readText()") == "vit-export verify exports"
        assert opened.complaints == []


def test_without_script_everything_but_the_buttons_is_there(browser, folder):
    with Opened(browser, folder / "full.html", java_script_enabled=False) as opened:
        assert opened.page.locator("button:visible").count() == 0
        assert opened.page.locator("section:visible").count() == 11
        assert "vit-export verify exports" in opened.page.inner_text("#reproduce")
