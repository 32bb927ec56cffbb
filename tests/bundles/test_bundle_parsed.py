"""The Kotlin and Swift of bundles and guides, parsed: what a computer without their compilers can say of them."""

import re

import pytest
from helpers.bundle_code import GUIDES, fenced, variants

from vit_export.bundles.targets import ROWS

LANGUAGES = [("android", "kotlin"), ("ios", "swift")]


def parser_of(language):
    tree_sitter = pytest.importorskip("tree_sitter", reason="tree-sitter is not installed")
    grammar = pytest.importorskip(f"tree_sitter_{language}", reason=f"the grammar of {language} is not installed")
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def faults(node):
    if node.type == "ERROR" or node.is_missing:
        yield node.start_point, node.text
    for child in node.children:
        yield from faults(child)


@pytest.mark.thorough
@pytest.mark.parametrize(("target", "language"), LANGUAGES)
def test_code_can_be_parsed(target, language):
    parser = parser_of(language)
    assert list(faults(parser.parse(b"class { fun func }").root_node))
    sources = (".kt", ".kts", ".swift")
    texts = {text for _, code in variants(target) for name, text in code.items() if name.endswith(sources)}
    assert len(texts) > 20
    for text in texts:
        assert not list(faults(parser.parse(text.encode()).root_node)), text
        assert "{{" not in text
        found = set(re.findall(r"import kotlin\.math\.(\w+)", text))
        assert found <= {"abs", "exp", "floor", "max", "min", "round"}


@pytest.mark.parametrize(("target", "language"), LANGUAGES)
def test_the_guides_code_can_be_parsed_and_names_what_bundles_install(target, language):
    guide = (GUIDES / f"{target}.md").read_text(encoding="utf-8")
    parser = parser_of(language)
    blocks = fenced(guide, language)
    assert len(blocks) == 4
    for text in blocks:
        assert not list(faults(parser.parse(text.encode()).root_node)), text
    assert all(row.release in guide for row in [ROWS["android", "tflite"]] if target == "android")
    assert all(ROWS["ios", format].release in guide for format in ("tflite", "onnx") if target == "ios")


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["android", "ios", "linux"])
def test_onnx_runtime_is_told_to_send_nothing_before_it_starts(target):
    starts = {"android": "OrtEnvironment.getEnvironment()", "ios": "try ORTEnv(", "linux": "import onnxruntime"}
    found = [text for _, code in variants(target) for text in code.values() if starts[target] in text]
    assert found
    assert all("ORT_DISABLE_TELEMETRY" in text.partition(starts[target])[0] for text in found)
