"""The Swift of bundles and of the guide, compiled by Swift's own compiler, and run where it is.

Apple's frameworks and the runtimes are on no other system, so small modules with the same signatures stand in for them
(tests/stand_ins/swift): Xcode may still refuse what they do not show. `SWIFTC` names a compiler that is not on PATH.
"""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.bundle_code import GUIDES, STAND_INS, assert_answer, assert_inputs, fenced, outputs_of, pictures, variants

from vit_export.bundles.code import readme
from vit_export.bundles.targets import row_of

pytestmark = pytest.mark.slow

MODULES = (  # in the order that they import each other
    "CoreGraphics", "ImageIO", "AVFoundation", "VideoToolbox", "UIKit", "TensorFlowLite", "OnnxRuntimeBindings",
)  # fmt: skip

MAIN = r"""
import CoreGraphics
import Foundation

@main
struct Main {{
    static func main() throws {{
        let all = URL(fileURLWithPath: CommandLine.arguments[1], isDirectory: true)
        var images: [CGImage] = []
        let sizes = try String(contentsOf: all.appendingPathComponent("sizes.txt"), encoding: .utf8)
        for line in sizes.split(separator: "\n") {{
            let size = line.split(separator: " ").map {{ Int($0)! }}
            let rgba = [UInt8](try Data(contentsOf: all.appendingPathComponent("\(images.count).rgba")))
            images.append(CGImage(rgba: rgba, width: size[0], height: size[1]))
        }}
{calls}
    }}
}}
"""

# Pixels of every picture, an answer, and what the camera says of its second frame (the first one comes turned).
CHECK = r"""
import AVFoundation
import CoreGraphics
import Foundation

enum Check {
    static func run(_ folder: URL, _ images: [CGImage]) throws {
        for (number, image) in images.enumerated() {
            try Pixels.input(image)!.write(to: folder.appendingPathComponent("\(number).input"))
        }
        let found = try Classifier(bundle: Bundle(path: folder.path)!).$call(images[0])
        try text(found).write(to: folder.appendingPathComponent("answer.txt"), atomically: true, encoding: .utf8)
        AVCaptureSession.frame = images[0]
        let said = DispatchSemaphore(value: 0)
        let camera = Camera(load: { try Classifier(bundle: Bundle(path: folder.path)!) }) { found in
            let file = folder.appendingPathComponent("camera.txt")
            try! text(try! found.get()).write(to: file, atomically: true, encoding: .utf8)
            said.signal()
        }
        camera.start()
        precondition(said.wait(timeout: .now() + 60) == .success)
        camera.stop()
    }

    static func text(_ found: $type) -> String {
        return found.map { $line }.joined(separator: "\n")
    }
}
"""
# What an app has at hand where a part of a file is shown.
FRAGMENT = """
import AVFoundation
import Foundation
{imports}

func shown{number}(url: URL) throws {{
{text}
}}
"""


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def compiler():
    found = os.environ.get("SWIFTC") or shutil.which("swiftc")
    if found is None:
        pytest.skip("swiftc is neither on PATH nor named by SWIFTC")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, compiler):
    """A folder with the stand-ins as modules, and the pictures."""
    folder = tmp_path_factory.mktemp("swift")
    for module in MODULES:
        source = str(STAND_INS / "swift" / f"{module}.swift")
        done = run(
            [compiler, "-emit-module", "-emit-library", "-static", "-parse-as-library", "-O", "-swift-version", "5",
             "-module-name", module, "-I", ".", "-o", f"lib{module}.a", source],
            cwd=folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    shapes = []
    for number, picture in enumerate(pictures()):
        opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
        (folder / f"{number}.rgba").write_bytes(np.concatenate([picture, opaque], -1).tobytes())
        shapes.append(f"{picture.shape[1]} {picture.shape[0]}\n")
    (folder / "sizes.txt").write_text("".join(shapes))
    return folder


@pytest.fixture(scope="module")
def cases():
    return {f"v{number}": case for number, case in enumerate(variants("ios"))}


@pytest.fixture(scope="module")
def compiled(compiler, folder, cases):
    """How Swift's compiler ended, over every variant at once: each has types of its own names there."""
    sources = []
    for name, (subject, code) in cases.items():
        (folder / name).mkdir()
        if subject.classifies:
            call, type, line = "classify", "[(label: String, probability: Double)]", '"\\($0.probability) \\($0.label)"'
        else:
            call, type, line = "features", "[Float]", '"\\($0)"'
        check = CHECK.replace("$call", call).replace("$type", type).replace("$line", line)
        for file, text in {**code, "Check.swift": check}.items():
            sources.append(f"{name}/{name}{file}")
            text = re.sub(r"\b(Pixels|Classifier|Camera|Check)\b", rf"\1_{name}", text)  # noqa: PLW2901
            (folder / sources[-1]).write_text(text, encoding="utf-8")
    calls = "\n".join(f'        try Check_{n}.run(all.appendingPathComponent("{n}"), images)' for n in cases)
    (folder / "Main.swift").write_text(MAIN.format(calls=calls), encoding="utf-8")
    used = [module for module in reversed(MODULES) if module != "UIKit"]
    command = [
        compiler, "-parse-as-library", "-warnings-as-errors", "-O", "-whole-module-optimization", "-swift-version", "5",
        "-module-name", "Bundles", "-I", ".", "-L", ".", *(f"-l{module}" for module in used), "-o", "check",
        "Main.swift", *sources,
    ]  # fmt: skip
    return run(command, cwd=folder)


def test_every_variant_compiles_without_a_warning(compiled):
    assert compiled.returncode == 0, compiled.stderr[-5000:]
    assert "warning" not in compiled.stderr, compiled.stderr[-5000:]


@pytest.fixture(scope="module")
def ran(compiled, folder, cases):
    """The folder of each variant, with what its code made of the pictures."""
    if compiled.returncode:
        pytest.skip("it does not compile")
    for number, (name, (subject, _)) in enumerate(cases.items()):
        (folder / name / subject.model_name).write_bytes(outputs_of(subject, number)[0].tobytes())
        if subject.record.labels:
            (folder / name / "labels.txt").write_text("\n".join(subject.record.labels) + "\n", encoding="utf-8")
    done = run([str(folder / "check"), str(folder)], timeout=600)
    assert done.returncode == 0, done.stderr[-5000:]
    return {name: folder / name for name in cases}


def test_pixels_are_those_of_python(ran, cases):
    for name, (subject, _) in cases.items():
        assert_inputs(lambda number, name=name: (ran[name] / f"{number}.input").read_bytes(), subject)


def test_answers_are_those_of_python(ran, cases):
    for number, (name, (subject, _)) in enumerate(cases.items()):
        values = outputs_of(subject, number)[1]
        for file in ("answer.txt", "camera.txt"):
            assert_answer((ran[name] / file).read_text(encoding="utf-8"), subject, values)


@pytest.mark.parametrize("mode", ["5", "6"])
@pytest.mark.parametrize(
    ("format", "classifies"), [("tflite", True), ("tflite", False), ("onnx", True), ("onnx", False)]
)
def test_the_guide_and_the_instructions_compile_without_a_warning(format, classifies, mode, compiler, folder, cases):
    subject, code = next(
        case for case in cases.values() if (case[0].artifact.format, case[0].classifies) == (format, classifies)
    )
    texts = fenced(readme(subject, row_of("ios", subject), "ios", subject.model_name, []), "swift")
    assert len(texts) == 2
    if classifies:
        ours = {"onnx": "ORT", "tflite": "Interpreter|MetalDelegate"}[format]
        guide = fenced((GUIDES / "ios.md").read_text(encoding="utf-8"), "swift")
        texts += [text for text in guide if text.startswith("import") or re.search(ours, text)]
    place = folder / f"{format}{classifies}{mode}"
    place.mkdir()
    runtime = {"onnx": "OnnxRuntimeBindings", "tflite": "TensorFlowLite"}[format]
    for number, text in enumerate(texts):
        if not text.startswith("import"):
            text = FRAGMENT.format(imports=f"import {runtime}", number=number, text=text)  # noqa: PLW2901
        code = {**code, f"Shown{number}.swift": text}
    for file, text in code.items():
        (place / file).write_text(text, encoding="utf-8")
    command = [
        compiler, "-typecheck", "-parse-as-library", "-swift-version", mode, "-module-name", "shown", "-I", ".",
        *(f"{place.name}/{file}" for file in code),
    ]  # fmt: skip
    done = run(command, cwd=folder)
    assert done.returncode == 0, done.stderr[-5000:]
    # A value that is shown and not used further is what a guide is for.
    warnings = [line for line in done.stderr.splitlines() if "warning:" in line and "never used" not in line]
    assert not warnings, done.stderr[-5000:]
