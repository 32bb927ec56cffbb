"""The one line of layers: who may import whom. It replaces prose, and fails where a stage looks upwards."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vit_export"

LAYERS = (
    ("base",),
    ("model",),
    ("images", "weights", "deployment", "artifacts"),
    ("runtimes", "int8"),
    ("tflite", "onnx", "verification"),
    ("evaluation",),
    ("report",),
    ("inspection", "bundles", "pipeline"),
    ("sweeps",),
    ("api", "cli"),
)
"""A stage may import its own modules and stages of lower lines, never its neighbours on the same line."""

RANK = {stage: rank for rank, stages in enumerate(LAYERS) for stage in stages}
HEAVY = {
    "tensorflow",
    "keras",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "ai_edge_quantizer",
    "matplotlib",
    "scipy",
}
REFERENCE_MODEL = {f"model/{name}.py" for name in ("keras_layers", "keras_model", "keras_training", "functional")}
REFERENCE_NAMES = {f"vit_export.{path[:-3].replace('/', '.')}" for path in REFERENCE_MODEL}
"""They define Keras classes, so they import Keras at once; whoever needs them imports them inside a function."""


def module_of(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports(module):
    """Every import statement of `module`, as (imported module, whether it runs when `module` is imported)."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in full]
        else:
            continue
        yield from ((name, node not in late) for name in names)


def stage_of(module):
    return module.split(".")[1] if "." in module else None


def test_every_stage_has_its_place():
    found = {stage_of(module) for module in FILES} - {None, "__main__"}
    assert found == set(RANK)


@pytest.mark.parametrize("stage", RANK)
def test_stages_import_downwards_only(stage):
    wrong = [
        f"{module} imports {name}"
        for module in FILES
        if stage_of(module) == stage
        for name, _ in imports(module)
        if name.startswith("vit_export.") and stage_of(name) != stage and RANK[stage_of(name)] >= RANK[stage]
    ]
    assert not wrong


def test_no_module_is_in_a_circle():
    graph = {module: {name for name, _ in imports(module) if name in FILES} - {module} for module in FILES}
    while ends := [module for module, needs in graph.items() if not needs & set(graph)]:
        for module in ends:
            del graph[module]
    assert not graph, f"imports in a circle, among {sorted(graph)}"


def test_heavy_packages_are_imported_inside_functions():
    wrong = [
        f"{module} imports {name}"
        for module, file in FILES.items()
        if str(file.relative_to(PACKAGE)) not in REFERENCE_MODEL
        for name, at_once in imports(module)
        if at_once and (name.split(".")[0] in HEAVY or name in REFERENCE_NAMES)
    ]
    assert not wrong
