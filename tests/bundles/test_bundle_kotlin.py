"""The Kotlin of bundles and of the guide, compiled by Kotlin's own compiler and run on the JVM.

Android's classes and the runtimes' packages come from Google's repository alone, so small ones with the same signatures
stand in for them (tests/stand_ins/java): an app's build may still fail on what they do not show.
"""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers.bundle_code import GUIDES, STAND_INS, assert_answer, assert_inputs, fenced, outputs_of, pictures, variants

from vit_export.bundles.code import readme
from vit_export.bundles.targets import row_of

pytestmark = pytest.mark.slow

COMPILER = "2.4.20"
RUNTIMES = {"tflite": "org.tensorflow.lite.Interpreter", "onnx": "ai.onnxruntime.OrtSession"}

SUPPORT = """
package support

import android.content.ContentResolver
import android.content.Context
import android.content.res.AssetManager
import android.graphics.Bitmap
import androidx.camera.core.ImageInfo
import androidx.camera.core.ImageProxy
import java.io.File
import java.nio.ByteBuffer

class Assets(private val folder: File) : Context() {
    override fun getAssets() = AssetManager(folder)
    override fun getContentResolver(): ContentResolver = throw UnsupportedOperationException()
    override fun getApplicationContext(): Context = this
}

class Frame(private val image: Bitmap) : ImageProxy {
    var closed = false
    override fun close() { closed = true }
    override fun getImageInfo() = ImageInfo { 90 }
    override fun toBitmap() = image
}

fun images(folder: File): List<Bitmap> = File(folder, "sizes.txt").readLines().mapIndexed { number, line ->
    val (width, height) = line.split(" ").map { it.toInt() }
    val argb = IntArray(width * height)
    ByteBuffer.wrap(File(folder, "$number.argb").readBytes()).asIntBuffer().get(argb)
    Bitmap(argb, width, height)
}

fun bytes(buffer: ByteBuffer) = ByteArray(buffer.remaining()).also { buffer.get(it) }

fun text(found: Any): String = when (found) {
    is FloatArray -> found.joinToString("\\n")
    is List<*> -> found.joinToString("\\n") { it as Pair<*, *>; "${it.second} ${it.first}" }
    else -> throw IllegalArgumentException()
}
"""

# Pixels of every picture, an answer, and one frame that the camera holds by a quarter.
CHECK = """
package $name

import java.io.File
import java.util.concurrent.ExecutorService
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

fun check(folder: File) {
    val images = support.images(folder.parentFile)
    images.forEachIndexed { number, image ->
        File(folder, "$number.input").writeBytes(support.bytes(Pixels.input(image)))
    }
    val assets = support.Assets(folder)
    Classifier(assets).use { File(folder, "answer.txt").writeText(support.text(it.$call(images[0]))) }
    val answers = LinkedBlockingQueue<String>()
    val camera = Camera({ Classifier(assets) }) { answers.add(support.text(it)) }
    val frame = support.Frame(images[0])
    val executor = camera.frames.executor as ExecutorService
    executor.execute { camera.frames.analyzer.analyze(frame) }
    File(folder, "camera.txt").writeText(answers.poll(60, TimeUnit.SECONDS)!!)
    camera.close()
    check(executor.awaitTermination(60, TimeUnit.SECONDS))
    check(frame.closed && $runtime.closed && camera.frames.analyzer == null)
    File(folder, "camera.input").writeBytes($runtime.input)
}
"""


# A build script is the body of what Gradle does with a project.
SCRIPT = """
package {name}

fun build(project: gradle.Project) = with(project) {{
{text}
}}
"""


def run(command, cwd, **options):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kotlin")


@pytest.fixture(scope="module")
def compiler(folder):
    """The folder of Kotlin's compiler and libraries, from the npm registry."""
    for tool in ("java", "javac", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", f"kotlin-compiler@{COMPILER}"]
    done = run(install, folder, timeout=300)
    if done.returncode:
        pytest.skip(f"kotlin-compiler cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}")
    return folder / "node_modules" / "kotlin-compiler" / "lib"


@pytest.fixture(scope="module")
def cases():
    return {f"v{number}": case for number, case in enumerate(variants("android"))}


@pytest.fixture(scope="module")
def compiled(folder, compiler, cases):
    """How Kotlin's compiler ended, over every variant and the guide at once (it takes long to start)."""
    java = [str(path) for path in (STAND_INS / "java").rglob("*.java")]
    classpath = f"{folder / 'classes'}:{compiler / 'kotlinx-coroutines-core-jvm.jar'}"
    done = run(["javac", "-d", str(folder / "classes"), *java], folder)
    assert done.returncode == 0, done.stderr
    sources = folder / "src"
    sources.mkdir()
    (sources / "support.kt").write_text(SUPPORT, encoding="utf-8")
    calls = "\n".join(f'    {name}.check(java.io.File("{name}").absoluteFile)' for name in cases)
    (sources / "main.kt").write_text(f"fun main() {{\n{calls}\n}}\n", encoding="utf-8")
    for name, (subject, code) in cases.items():
        (sources / name).mkdir()
        check = CHECK.replace("$name", name).replace("$runtime", RUNTIMES[subject.artifact.format])
        check = check.replace("$call", "classify" if subject.classifies else "features")
        for file, text in {**code, "check.kt": check}.items():
            if file.endswith((".kt", ".kts")):
                path = sources / name / Path(file).name.replace(".kts", ".kt")
                whole = SCRIPT.format(name=name, text=text) if file == "build.gradle.kts" else text
                path.write_text(whole.replace("package vit\n", f"package {name}\n"), encoding="utf-8")
    for number, text in enumerate(shown_files(cases)):
        (sources / f"shown{number}.kt").write_text(text, encoding="utf-8")
    command = [
        "java", "-cp", f"{compiler}/*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-reflect", "-Werror",
        "-Wextra", "-cp", classpath, "-d", str(folder / "classes"), str(sources), str(STAND_INS / "kotlin"),
    ]  # fmt: skip
    return run(command, folder)


# What an app has at hand where a part of a file is shown.
FRAGMENT = """
package {name}

import ai.onnxruntime.OrtSession
import android.content.Context
import android.graphics.ImageDecoder
import android.net.Uri
import android.util.Log
import androidx.activity.ComponentActivity
import androidx.camera.core.CameraSelector
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.lifecycle.awaitInstance
import androidx.lifecycle.lifecycleScope
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlinx.coroutines.launch

@Suppress("UNUSED_VARIABLE", "UNUSED_PARAMETER")
fun shown{number}(context: Context, activity: ComponentActivity, uri: Uri) {{
{text}
}}
"""


def shown_files(cases):
    """The Kotlin of the guide and of the bundles' instructions as files, each with the code that it is written for."""
    first = {}  # the first variant of each format and kind of answer that takes float32
    for name, (subject, _) in cases.items():
        if subject.input.dtype == "float32":
            first.setdefault((subject.artifact.format, subject.classifies), (name, subject))
    guide = fenced((GUIDES / "android.md").read_text(encoding="utf-8"), "kotlin")
    texts = [("onnx" if "OrtSession" in text else "tflite", True, text) for text in guide]
    for format, classifies in first:
        subject = first[format, classifies][1]
        text = readme(subject, row_of("android", subject), "android", subject.model_name, [])
        texts += [(format, classifies, block) for block in fenced(text, "kotlin")]
    assert len(texts) == 4 + 2 * 4
    for number, (format, classifies, shown) in enumerate(texts):
        name = first[format, classifies][0]
        text = re.sub(r"^package vit$", f"package {name}", shown.replace("vit.", f"{name}."), flags=re.MULTILINE)
        yield text if text.startswith("package") else FRAGMENT.format(name=name, number=number, text=text)


def test_every_variant_and_the_guide_compile_without_a_warning(compiled):
    assert compiled.returncode == 0, compiled.stderr[-5000:]
    assert "warning" not in compiled.stderr, compiled.stderr[-5000:]


@pytest.fixture(scope="module")
def ran(compiled, compiler, folder, cases):
    """The folder of each variant, with what its code made of the pictures."""
    if compiled.returncode:
        pytest.skip("it does not compile")
    shapes = []
    for number, picture in enumerate(pictures()):
        opaque = np.full((*picture.shape[:2], 1), 255, np.uint8)
        (folder / f"{number}.argb").write_bytes(np.concatenate([opaque, picture], -1).tobytes())
        shapes.append(f"{picture.shape[1]} {picture.shape[0]}\n")
    (folder / "sizes.txt").write_text("".join(shapes))
    for number, (name, (subject, _)) in enumerate(cases.items()):
        (folder / name).mkdir()
        (folder / name / subject.model_name).write_bytes(outputs_of(subject, number)[0].tobytes())
        if subject.record.labels:
            (folder / name / "labels.txt").write_text("\n".join(subject.record.labels) + "\n", encoding="utf-8")
    done = run(["java", "-cp", f"{folder / 'classes'}:{compiler}/kotlin-stdlib.jar", "MainKt"], folder)
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


def test_a_camera_frame_is_turned_upright(ran, cases):
    last = len(pictures()) - 1
    for name in cases:
        assert (ran[name] / "camera.input").read_bytes() == (ran[name] / f"{last}.input").read_bytes()
