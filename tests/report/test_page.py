"""report.html: what it shows, that it needs nothing else, and that no name becomes more than a name."""

import base64
import copy
import hashlib
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pictures
from helpers.pages import Page, sound
from helpers.reports import FAILURE, HOSTILE, artifact, hostile_report, latency, report_of, verification
from PIL import Image

from vit_export.base.errors import InputError, OutputError
from vit_export.base.numbers import figure, number, percent, shortened
from vit_export.base.text import visible
from vit_export.images.pictures import ImageSet, Pictures
from vit_export.model.preprocessing import Preprocessing
from vit_export.report import charts, scatter
from vit_export.report.content import write_report
from vit_export.report.images import failing_images, faults_of, notable_images, ranked
from vit_export.report.page import images_shown, render_page, write_page
from vit_export.report.svg import Picture, by_matplotlib, clamped, linear, logarithmic, tick
from vit_export.report.thumbnails import thumbnails
from vit_export.report.view import image_names, read_files
from vit_export.verification.checks import Check
from vit_export.verification.metrics import OutputResult, compare
from vit_export.verification.verdict import FileResult, Reference

SECTIONS = [
    "ship", "findings", "files", "trade-off", "differences", "images", "layers", "latency", "checks", "made",
    "reproduce",
]  # fmt: skip


@pytest.fixture(scope="module")
def full():
    return report_of(verification())


def test_every_section_is_there_with_what_it_is_about(full):
    page = sound(render_page(full, {}))
    assert page.ids("section") == SECTIONS
    for text in (
        "FAIL", "3 of 5 files are", "vit_toy, 32 px", "saved_model", "A processor", FAILURE,
        "GELU is the tanh form in it.", "It leaves the reference at encoder layer 1 mlp.",
        "was killed by SIGKILL.", "p90 is up to 2.5 times the median.", "tflite int8 static", "toy_float16.tflite",
        "label 3", "another top class", "vit-export verify exports", "cd" * 32, "broken.jpg: it is empty",
        "tensorflow", "onnxruntime", "interpolation", "bilinear", "3 of 3 passed", "2 of 3 passed", "Runs on anything",
    ):  # fmt: skip
        assert text in page.text, text


def test_tables_of_all_pages_are_made_in_one_place():
    templates = (Path(__file__).parents[2] / "vit_export" / "data").glob("*.html")
    assert [file.name for file in templates if "<table" in file.read_text(encoding="utf-8")] == ["parts.html"]


def test_the_table_gives_each_figure_with_its_interval_or_limit(full):
    page = sound(render_page(full, {}))
    of_static = (
        page.text.partition("Every file with its figures")[2]
        .partition("toy_int8.tflite")[2]
        .partition("toy_int8.onnx")[0]
    )
    file = full["verification"]["files"][2]
    right = file["accuracy"]
    for text in (
        "24.0 MB", "25.8 % of ref.", figure(file["comparison"]["worst_relative"]), "limit ≤ 0.1", "limit ≥ 10",
        percent(right["share"]).replace("\xa0", " "), f"{figure(100 * right['low'])} to {figure(100 * right['high'])}",
        "30.0 ms", "29.7 to 30.3", "33.0 / 36.0 ms", "2.42 ×", "2.37 to 2.47", "0.5 s", "40.0 ms", "312 MB",
    ):  # fmt: skip
        assert text in of_static, text


def test_a_pass_is_said_in_words(full):
    passing = [file for file in verification().files if file.passed]
    page = sound(render_page(report_of(replace(verification(), files=tuple(passing))), {}))
    assert "PASS" in page.text
    assert "All 3 files are the reference’s model on 8 images." in page.text
    assert "FAIL" not in page.text
    one = sound(render_page(report_of(replace(verification(), files=tuple(passing[:1]))), {}))
    assert "The file is the reference’s model on 8 images." in one.text


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(full):
    page = render_page(full, {})
    policy = next(a for a in Page(page).of("meta") if a.get("http-equiv") == "Content-Security-Policy")["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for tag in ("style", "script"):
        content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert rules == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}


def test_hostile_names_stay_names():
    report = hostile_report()
    page = render_page(report, dict.fromkeys(HOSTILE, b"\xff\xd8\xff"))
    parsed = sound(page)
    assert not {a.get("src") for a in parsed.of("img")} & {"x"}
    assert "<script>alert(1)</script>" in parsed.text
    assert '"><img src=x onerror=alert(2)>' in parsed.text
    assert "{{7*7}}{% raw %}" in parsed.text
    assert "\\u202egpj.exe\\u2066" in parsed.text
    assert "&lt;b&gt; &#60;" in parsed.text  # as it was typed, not as it would be read
    assert not [c for c in page if c in "\u202e\u2066\x00\x1b\ud800\uffff\r"]


def test_it_is_made_of_what_report_json_holds(full, tmp_path):
    write_report(full, tmp_path / "report.json")
    again = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert render_page(again, {}) == render_page(full, {})


def paths(value, at=()):
    """The path of every part of `value`; of lists the first entries stand for all."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, part in entries:
        yield (*at, key)
        yield from paths(part, (*at, key))


@pytest.fixture(scope="module")
def small():
    """A report with one file that has everything, small enough to be spoiled everywhere."""
    plain = verification(3)
    return report_of(replace(plain, files=(plain.files[3],)))


JUNK = (None, "x", 7, -1.5, "NaN", "Infinity", True, [], {}, [None, "y", 3], {"a": [1]}, 10**400)


@pytest.mark.parametrize(
    "step", [16, pytest.param(4, marks=pytest.mark.thorough), pytest.param(1, marks=pytest.mark.slow)]
)
def test_whatever_is_missing_or_of_another_kind_the_page_can_be_read(step, small):
    random = np.random.default_rng(step)
    places = list(paths(small))
    assert len(places) > 300
    for path in places[::step]:
        report = copy.deepcopy(small)
        holder = report
        for key in path[:-1]:
            holder = holder[key]
        if random.random() < 0.3:
            del holder[path[-1]]
        else:
            holder[path[-1]] = JUNK[random.integers(len(JUNK))]
        try:
            page = render_page(report, {})
        except Exception as error:
            raise AssertionError(f"broken by a change of {path}") from error
        assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("report", [{}, {"schema_version": 1}, {"verification": {}}, {"verification": {"files": 3}}])
def test_nearly_nothing_is_still_a_page(report):
    assert "NOT VERIFIED" in sound(render_page(report, {})).text


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(InputError, match="of type list, expected the JSON object"):
        write_page([], {}, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_verification():
    report = report_of(None, artifacts=[artifact("a.tflite", "tflite", "float32"), artifact("b.onnx", "onnx", "int8")])
    page = sound(render_page(report, {}))
    assert "NOT VERIFIED" in page.text
    assert "2 files were made; none has been compared" in page.text
    assert "a.tflite" in page.text
    assert "88.1 MB" in page.text
    assert page.ids("section") == ["files", "made", "reproduce"]
    assert "PASS" not in page.text


def test_features_have_no_classes():
    outputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    plain = verification(4)
    file = replace(plain.files[0], comparison=compare(outputs, outputs * 1.001, classes=False), top=None, accuracy=None)
    other = replace(plain.files[2], comparison=compare(outputs, outputs * 1.01, classes=False), top=None, accuracy=None)
    reference = replace(plain.reference, top=None, accuracy=None)
    report = report_of(replace(plain, files=(file, other), reference=reference), labels=None)
    page = sound(render_page(report, {}))
    assert "SQNR of the worst image by size" in page.text
    assert "Same top class" not in page.text.partition("Limits")[0]
    assert "class 3" not in page.text


def test_a_failed_reference_and_files_that_never_ran():
    check = Check("runs", False, detail="saved_model could not be loaded")
    skipped = Check("reference", False, detail="not compared, because the reference failed")
    files = (FileResult(artifact("a.tflite", "tflite", "float32"), (skipped,)),)
    plain = verification()
    page = sound(render_page(report_of(replace(plain, reference=Reference("/x/s", 1, (check,)), files=files)), {}))
    assert "saved_model could not be loaded." in page.text
    assert "0 of 1 files are the reference’s model" in page.text
    assert page.ids("section") == ["ship", "findings", "files", "checks", "made", "reproduce"]


def test_numbers_that_are_none():
    plain = verification(4)
    file = plain.files[1]
    same = replace(file.comparison, sqnr_db=(math.inf,) * 4, worst_difference=(0.0,) * 4)
    broken = replace(file.comparison, sqnr_db=(math.nan,) * 4, worst_difference=(math.nan,) * 4, range=0.0)
    files = (replace(file, comparison=same), replace(plain.files[2], comparison=broken))
    report = report_of(replace(plain, files=files))
    page = sound(render_page(report, {}))
    assert "∞" in page.text
    assert "NaN" in page.text
    assert "%nan" not in render_page(report, {})
    assert 'x="nan' not in render_page(report, {})


def test_a_report_of_32_images_and_six_files_is_small(tmp_path):
    random = np.random.default_rng(0)
    for i in range(32):
        noise = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)  # nothing compresses worse
        Image.fromarray(noise).resize((320, 320)).save(tmp_path / f"photo_{i}.jpg")
    plain = verification(32, images=tuple(f"photo_{i}.jpg" for i in range(32)))
    files = [*plain.files[:4], *(replace(f, artifact=artifact(f"{i}.onnx", "onnx", "float16")) for i, f in
                                 enumerate(plain.files[1:3]))]  # fmt: skip
    report = report_of(replace(plain, files=tuple(files)))
    shown = images_shown(report)
    pictures = thumbnails(Pictures.of(ImageSet.of(tmp_path, shown), Preprocessing(320)), shown)
    assert len(pictures) == len(shown) >= 4
    assert max(map(len, pictures.values())) < 20_000
    assert len(render_page(report, pictures)) < 1_000_000


def test_images_shown_are_the_worst_and_those_of_another_class(full):
    _, files = read_files(full)
    shown = notable_images(files, 8)
    failing = full["verification"]["files"][3]["comparison"]
    assert failing["worst_image"] in shown
    first = next(iter(shown.values()))
    assert any(file.name == "toy_int8.onnx" for file in first)  # the worst against its limit comes first
    for index, of in shown.items():
        for file in of:
            worst = index == min(ranked(file, 8), key=lambda pair: (-pair[0], pair[1]))[1]
            assert worst or faults_of(file, index) or not file.agrees[index]
    missed = [i for i, agrees in enumerate(failing["top1_agrees"]) if not agrees]
    assert missed
    names = image_names(full)
    assert set(images_shown(full)) == {names[i] for i in shown}
    assert images_shown({}) == []


def test_an_image_that_loses_sqnr_or_cosine_alone_is_shown_with_its_folder_and_its_figures():
    """Limits of SQNR and cosine are broken by images whose largest difference is small."""
    names = tuple(f"held_out/{flower}/{n}.jpg" for n, flower in enumerate(("gentian", "daisy", "gentian", "edelweiss")))
    plain = verification(4, images=names)
    outputs = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
    found = outputs.copy()
    found[1] += np.where(np.arange(300) % 2, 0.3, -0.3)  # everywhere a little
    worse = replace(plain.files[2], comparison=compare(outputs, found), checks=(Check("runs", True),), location=None)
    report = report_of(replace(plain, files=(worse,)))
    _, files = read_files(report)
    assert files[0].differences[1] < files[0].limit("worst_difference")
    assert [*notable_images(files, 4)] == [1]
    (row,), count = failing_images(files, names)
    assert (row[0], count) == ("held_out/daisy/1.jpg", 1)
    assert re.fullmatch(r"SQNR 1\d\.\d dB, limit 22; cosine 0\.9\d+, limit 0\.99", row[2])
    page = sound(render_page(report, {}))
    assert page.text.count("✕ SQNR 1") == page.text.count("✕ cosine 0.9") == 1
    assert "held_out/daisy/1.jpg" in page.text
    assert "Every image beyond a limit 1 image, the worst first" in page.text


def test_images_that_lose_a_further_output_are_shown():
    plain = verification(4)
    outputs = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
    found = outputs.copy()
    found[2] *= np.float32(1.5)
    tokens = OutputResult("tokens", compare(outputs, found, classes=False))
    report = report_of(replace(plain, files=(replace(plain.files[2], outputs=(tokens,)),)))
    _, files = read_files(report)
    assert any(fault.startswith("tokens: SQNR ") for fault in faults_of(files[0], 2))
    assert 2 in notable_images(files, 4)


def test_what_to_ship_and_what_to_type_next():
    command = "vit-export --weights 'my <model>' --onnx --int8 --int8-scheme w8a16"
    advice = [{"kind": "scheme", "files": ["toy_int8.onnx"], "text": "another scheme keeps more", "command": command}]
    page = sound(render_page(report_of(verification(), advice=advice), {}))
    assert "toy_int8.tflite The fastest of 3 files that passed: 29.7 to 30.3 ms, 24.0 MB" in page.text
    of_onnx = page.text.partition("onnx int8 dynamic")[2].partition("onnx float32")[0]
    assert f"Next: Another scheme keeps more. {command}" in of_onnx
    assert "next-file-3-1" in page.ids("code")
    none = report_of(replace(verification(), files=verification().files[3:]))
    assert "No file passed." in sound(render_page(none, {})).text


def test_a_picture_is_embedded_once_and_its_absence_is_said(full):
    name = images_shown(full)[0]
    page = render_page(full, {name: b"\xff\xd8picture", "unknown.jpg": b"\xff\xd8other"})
    pictures = Page(page).of("img")
    assert [p["src"] for p in pictures] == ["data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8picture").decode()]
    assert pictures[0]["alt"] == f"The image {name.rpartition('/')[2]}"
    assert page.count("no picture") == len(images_shown(full)) - 1


def test_thumbnails_are_small_jpegs_of_what_the_model_sees_and_other_names_are_left_out(tmp_path):
    write_pictures(tmp_path, 1, (640, 320))
    (tmp_path / "tiny.png").write_bytes((write_pictures(tmp_path / "more", 1, (8, 8)) / "00.png").read_bytes())
    turned = Image.new("RGB", (200, 100))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    names = ["00.png", "broken.jpg", "missing.jpg", "tiny.png", "turned.jpg", "x" * 400, "a\0b"]
    read = Pictures.of(ImageSet.of(tmp_path, ["00.png", "tiny.png", "turned.jpg"]), Preprocessing(200))
    made = thumbnails(read, names)
    assert set(made) == {"00.png", "tiny.png", "turned.jpg"}
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in made.items()}
    assert set(sizes.values()) == {(160, 160)}
    assert thumbnails(Pictures.of(read.images, Preprocessing(32)), names).keys() == made.keys()
    assert all(data.startswith(b"\xff\xd8") and len(data) < 15_000 for data in made.values())


def test_the_page_is_written_whole_or_not_at_all(full, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_page(full, {}, path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_page(full, {}, path / "report.html")


def names_on(chart):
    return re.search(r"On the front: (.*)\.$", chart.caption)[1].split(", ")


def test_the_front_holds_what_nothing_beats_and_nothing_that_failed(full):
    reference, files = read_files(full)

    def chart(**scores):
        chosen = []
        for label, (share, size) in scores.items():
            entry = copy.deepcopy(files[0].entry)
            entry["accuracy"]["share"] = share
            entry["verdict"] = "fail" if label == "broken" else "pass"
            entry["artifact"] |= {"format": label, "precision": "", "bytes": size}
            chosen.append(replace(files[0], id=label, entry=entry, artifact=entry["artifact"]))
        return charts.trade_off(chosen, reference, "accuracy", lambda f: f.bytes, "bytes", "x")

    plot = chart(big=(0.95, 90), good=(0.94, 30), beaten=(0.93, 40), small=(0.80, 10), tie=(0.94, 30.5), broken=(1, 5))
    assert names_on(plot) == ["small", "good", "big"]
    (front,) = re.findall(r'<path d="([^"]*)"[^>]*class="front"', plot.svg)
    assert front.count("L") == 4
    assert "broken (failed)" in plot.svg
    assert chart(one=(0.5, 1)) is None


def test_quality_is_what_tells_files_apart(full):
    _, files = read_files(full)
    assert charts.measure_of(files, trained=True) == "accuracy"
    bare = [replace(f, entry={k: v for k, v in f.entry.items() if k != "accuracy"}) for f in files]
    assert charts.measure_of(bare, trained=True) == "agreement"
    assert charts.measure_of(bare, trained=False) == "sqnr"
    assert charts.measure_of(bare[:1], trained=True) == "sqnr"


def test_names_in_a_plot_do_not_cover_each_other():
    points = [(160 + 3 * i, 100 + i % 2) for i in range(8)]
    names = ["tflite int8 dynamic"] * 8
    places = scatter.place(points, names, points, (0, 12, 320, 276))
    boxes = []
    for (x, y), name, (side, up) in zip(points, names, places, strict=True):
        length = scatter.LETTER * len(name)
        left = x + (11 if side > 0 else -11 - length)
        boxes.append((left, left + length, y + up))
    for i, (left, right, y) in enumerate(boxes):
        assert 12 <= y <= 276
        assert not [1 for a, b, v in boxes[:i] if a < right and left < b and abs(v - y) < 14]


def test_differences_mark_every_image_and_what_is_beyond_the_limit(full):
    _, files = read_files(full)
    chart = charts.differences(files, image_names(full))
    beyond = sum(value > 0.05 for value in files[3].differences)
    assert beyond >= 1
    assert chart.svg.count('class="mark bad"') == beyond
    assert chart.svg.count("mark ringed") == 4
    assert chart.svg.count(" dot") == 4 * 8 - beyond
    assert "limit 0.05" in chart.svg


def test_of_many_images_the_worst_are_drawn():
    report = report_of(replace(verification(1000), files=verification(1000).files[:1]))
    report["verification"]["files"][0]["comparison"]["worst_difference"] = [i / 1e6 for i in range(1000)]
    _, files = read_files(report)
    chart = charts.differences(files, image_names(report))
    assert chart.svg.count(" dot") + chart.svg.count("mark bad") == charts.DOTS
    assert "150 of 1000 images are drawn" in chart.caption
    assert "photo_999.jpg" in chart.svg


def test_layers_mark_where_a_file_departs(full):
    _, files = read_files(full)
    chart = charts.layers(files[3])
    assert "departs: encoder layer 1 mlp" in chart.svg
    assert chart.svg.count("mark ringed") == 1
    assert chart.svg.count('class="mark bad"') == 5
    assert chart.caption == "It leaves the reference at encoder layer 1 mlp. 1 point has no tensor in the file."
    assert "mark ringed" not in charts.layers(files[2]).svg
    assert charts.layers(files[0]) is None


def test_latency_shares_one_axis_and_says_what_it_leaves_out(full):
    reference, files = read_files(full)
    chart = charts.latencies(reference, files)
    assert chart.svg.count('class="median ') == 5
    assert chart.svg.count(" sample") == 5 * 60
    slow = copy.deepcopy(full)
    slow["verification"]["files"][0]["latency"]["samples_ms"][-1] = 900.0
    reference, files = read_files(slow)
    assert "1 call lies beyond the axis." in charts.latencies(reference, files).caption
    assert charts.latencies(None, []) is None


def test_latency_of_older_reports_has_no_samples(full):
    old = copy.deepcopy(full)
    for file in old["verification"]["files"]:
        if file["latency"]:
            for key in (
                "samples_ms",
                "p99_ms",
                "low_ms",
                "high_ms",
                "speedup_low",
                "speedup_high",
                "rounds",
                "ended_by",
            ):
                del file["latency"][key]
    _, files = read_files(old)
    chart = charts.latencies(None, files)
    assert chart.svg.count('class="median ') == 4
    assert " sample" not in chart.svg
    assert "60.0 ms" in sound(render_page(old, {})).text


def test_scales_keep_what_lies_outside_on_the_edge():
    limits = linear([10, 20], room=0)
    assert [clamped(v, limits) for v in (10, 15, 20, 5, 99, math.inf, math.nan)] == [10, 15, 20, 10, 20, 20, 20]
    assert linear([], zero=True)[0] == 0
    low, high = linear([3, 3])
    assert 0.4 < (3 - low) / (high - low) < 0.6
    assert linear([3, 3], zero=True)[0] == 0
    assert logarithmic([0, 1e-12, 0.02]) == (1e-9, 0.1)
    assert clamped(0, logarithmic([0, 1e-12, 0.02])) == 1e-9


@by_matplotlib
def ticks(limits, log=()):
    """What is written at the ticks of an axis with these ends."""
    picture = Picture(100, (10, 10, 10, 10))
    picture.scale("x", limits, log=log)
    low, high = limits
    return [tick(v) for v in picture.axes.get_xticks() if low * 0.999 <= v <= high * 1.001]


def test_ticks_are_few_and_round():
    assert ticks((1e-9, 0.1), [1]) == ["1e−9", "1e−7", "1e−5", "0.001", "0.1"]
    assert ticks((0, 100)) == ["0", "20", "40", "60", "80", "100"]
    assert [tick(v) for v in (-40.0, 2000, 0.1 + 0.2, 3e12)] == ["−40", "2\u202f000", "0.3", "3e12"]


def test_a_chart_is_the_same_each_time_whatever_matplotlib_is_told(full):
    import matplotlib

    reference, files = read_files(full)
    svg = charts.latencies(reference, files).svg
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert charts.latencies(reference, files).svg == svg
        assert matplotlib.rcParams["font.size"] == 30
    assert "Date" not in svg
    assert not re.search("#[0-9a-f]{6}\\b", svg)  # every colour is one of the page's


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (3.14e-7, "3.1e−07"), (0.0123, "0.0123"), (4.567, "4.57"), (45.67, "45.7"),
     (2529.4, "2529"), (-3.0, "−3"), (math.inf, "∞"), (math.nan, "NaN"), (1e12, "1.0e+12")],
)  # fmt: skip
def test_figures_have_the_digits_they_deserve(value, shown):
    assert figure(value) == shown


def test_small_words():
    assert percent(0.9999) == "99.9\xa0%"  # never 100 for less than all
    assert percent(1.0) == "100\xa0%"
    assert number("Infinity") == math.inf
    assert number(True) is number("12") is number([1]) is None
    assert visible("a\u202eb\n") == "a\\u202eb\\n"
    assert visible("a\nb", keep="\n") == "a\nb"
    assert visible("שלום 🦊 日本") == "שלום 🦊 日本"
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert latency(10.0).median_ms == 10
