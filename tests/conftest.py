"""A toy Vision Transformer with random weights everywhere (no zero bias, no unit scale), in every form tests need."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vit_export.base.quiet import import_tensorflow
from vit_export.model.parameters import parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import Variant
from vit_export.runtimes.magnitudes import largest_magnitudes
from vit_export.runtimes.places import CPU
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import open_runner

pytest_plugins = ["helpers.originals"]  # fixtures that several folders need

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

TOY = Variant("vit_toy", patch_size=8, num_layers=3, hidden_size=48, mlp_size=96, num_heads=4, use="tests")


class RandomParameters:
    """A ParameterSource of reproducible random values that make every parameter matter."""

    def __init__(self, spec: ViTSpec, seed: int = 0) -> None:
        self.spec = spec
        random = np.random.default_rng(seed)
        self._values = {p.name: self._draw(p.name, p.shape, random) for p in parameter_specs(spec)}

    @staticmethod
    def _draw(name, shape, random):
        if name.endswith("scale"):
            return random.uniform(0.5, 1.5, shape).astype(np.float32)
        spread = 0.3 if name.endswith("bias") else 0.5 if "kernel" not in name else 1.3 * np.prod(shape[:-1]) ** -0.5
        return (spread * random.standard_normal(shape)).astype(np.float32)

    def read(self, name: str) -> np.ndarray:
        return self._values[name]

    def replaced(self, name: str, value: np.ndarray) -> "RandomParameters":
        other = object.__new__(RandomParameters)
        other.spec, other._values = self.spec, {**self._values, name: value}
        return other


def toy_spec(**overrides) -> ViTSpec:
    return ViTSpec.of(TOY, **{"image_size": 32, "num_classes": 10, **overrides})


def build(source):
    """The Keras reference model with the parameters of `source`."""
    import_tensorflow()
    from vit_export.model.keras_model import build_model
    from vit_export.model.saved_model import assign_parameters

    model = build_model(source.spec)
    assign_parameters(model, source.read)
    return model


def record_of(spec: ViTSpec, *, trained: bool = False):
    from vit_export.model.record import ModelRecord

    return ModelRecord(spec, Preprocessing(spec.image_size), {"source": "test", "trained": trained})


def write_pictures(folder, count, size):
    """`count` small pictures of `size` (width, height) that differ from each other, in `folder`, which is made."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(1)
    for index in range(count):
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")
    return folder


class InProcess(RunnerProcess):
    """Stands for a process of its own where a test is about what a file computes: a second TensorFlow takes seconds."""

    @property
    def pid(self):
        if self.place is not CPU:
            return super().pid
        return os.getpid() if hasattr(self, "_runner") else None  # where it did not load, there is none

    def start(self):
        if self.place is not CPU:
            super().start()
            return
        # TensorFlow has started with settings of its own, which are not a runner's to change.
        threads = None if self.format == "saved_model" else self.threads
        self._runner = open_runner(self.path, self.format, threads, self.output)
        self.inputs, self.outputs, self.load_seconds = self._runner.inputs, self._runner.outputs, 0.0
        if self.output is not None:
            self.outputs = (self._runner.output,)

    def _ask(self, request, *arguments):
        if self.place is not CPU:
            return super()._ask(request, *arguments)
        if request == "memory":
            return 1, None, 1
        if request == "largest":
            return largest_magnitudes(self._runner, *arguments)
        found = getattr(self._runner, request)(*arguments)
        return found if request == "time" else (found, 0.0)


@pytest.fixture
def in_process(monkeypatch):
    """Verification in this process; what is special about a process of its own is tested where it is not asked for."""
    from vit_export.verification import processes

    monkeypatch.setattr(processes, "RunnerProcess", InProcess)


@pytest.fixture(scope="module", autouse=True)
def _light_collections():
    """What is loaded stays loaded: the garbage collection in every export need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def spec() -> ViTSpec:
    return toy_spec()


@pytest.fixture(scope="session")
def source(spec) -> RandomParameters:
    return RandomParameters(spec)


@pytest.fixture(scope="session")
def record(spec):
    return record_of(spec)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Six smooth images in -1..1: noise of several scales, so that patches differ from each other."""
    random = np.random.default_rng(7)
    coarse = random.uniform(-1, 1, (6, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    fine = random.uniform(-1, 1, (6, 32, 32, 3))
    return np.clip(0.8 * coarse + 0.4 * fine, -1, 1).astype(np.float32)


@pytest.fixture(scope="session")
def model(source):
    return build(source)


@pytest.fixture(scope="session")
def expected(model, images) -> np.ndarray:
    """The reference's logits of `images`."""
    return model.predict_output(images)


@pytest.fixture(scope="session")
def saved_model(model, record, tmp_path_factory) -> Path:
    from vit_export.model.saved_model import write_saved_model

    path = tmp_path_factory.mktemp("toy") / "saved_model"
    write_saved_model(model, path, record)
    return path


@pytest.fixture(scope="module")
def browser():
    """An installed Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no installed Chromium was found ({', '.join(BROWSERS)})")
    # A home without a writable profile or crash folder must not keep the browser from starting.
    with tempfile.TemporaryDirectory() as home, sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"], env={**os.environ, "HOME": home}
        )
        yield started
        started.close()
