"""The Gradle module that a bundle for Android is: what a computer without Gradle can say of it."""

import re
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version

import pytest
from helpers.bundle_code import GUIDES, variants

from vit_export.bundles.code import readme
from vit_export.bundles.targets import ROWS, row_of

ANDROID = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def module(request):
    """A file of one format, and the code of its bundle."""
    return next(case for case in variants("android") if case[0].artifact.format == request.param)


def test_litert_is_the_release_that_verification_runs():
    minor, installed = (
        text.rpartition(".")[0] for text in (ROWS["android", "tflite"].release, version("ai-edge-litert"))
    )
    assert minor == installed


def test_the_manifest_asks_for_a_camera_that_may_be_missing(module):
    root = ElementTree.fromstring(module[1]["src/main/AndroidManifest.xml"])
    assert root.find("uses-permission").get(f"{ANDROID}name") == "android.permission.CAMERA"
    assert root.find("uses-feature").attrib == {
        f"{ANDROID}name": "android.hardware.camera",
        f"{ANDROID}required": "false",
    }


def test_the_module_brings_its_runtime_and_the_rules_that_keep_it(module):
    subject, code = module
    script, rules = code["build.gradle.kts"], code["consumer-rules.pro"]
    row = row_of("android", subject)
    assert f'api("{row.runtime}:{row.release}")' in script
    assert 'consumerProguardFiles("consumer-rules.pro")' in script
    kept = re.findall(r"^-keep class ([\w.]+)\.\*\*", rules, re.MULTILINE)
    packages = {
        name for text in code.values() for name in re.findall(r"^import ((?:ai|org|com)\.[\w.]+)", text, re.MULTILINE)
    }
    assert packages
    assert all(name.startswith(tuple(kept)) for name in packages), packages
    (namespace,) = re.findall(r'namespace = "(\w+)"', script)
    assert all(f"package {namespace}\n" in text for name, text in code.items() if name.endswith(".kt"))


def test_readme_and_guide_include_the_module_alike(module):
    subject, _ = module
    texts = [
        readme(subject, row_of("android", subject), "android", subject.model_name, []),
        (GUIDES / "android.md").read_text(encoding="utf-8"),
    ]
    for text in texts:
        assert 'include(":vit")' in text
        assert 'implementation(project(":vit"))' in text
        assert "noCompress" in text
