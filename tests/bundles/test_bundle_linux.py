"""The Linux bundle beyond one photograph: cameras, threads, execution providers, and (slow) OpenCV and arm64."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pip
import pytest
from conftest import RandomParameters, toy_spec
from helpers.bundles import LABELS, digits_record, ours, top_classes, unpacked
from helpers.digits import DigitsParameters
from PIL import Image
from skimage import data

from vit_export.bundles.pack import bundle
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.runtimes.emulation import available, launch

PICTURES = {
    "astronaut.png": data.astronaut()[:, 100:400],
    "cat.png": data.chelsea()[:, :450],
    "coffee.png": data.coffee()[:, ::-1],
}

# A module `cv2` with what camera.py uses. Frames are files of numpy: those of FILE lie in FILE.npy, those of camera
# N in camera_N.npy, one after another; `camera_endless.npy` comes again and again, at 100 frames a second.
CV2 = """
import pathlib, time
import numpy

FOLDER = pathlib.Path(__file__).parent

class VideoCapture:
    def __init__(self, which):
        path = FOLDER / (f"camera_{which}.npy" if isinstance(which, int) else f"{which}.npy")
        self.endless = which == 9
        self.frames = list(numpy.load(path)) if path.exists() else None

    def isOpened(self):
        return self.frames is not None

    def read(self):
        if self.endless:
            time.sleep(0.01)
            return True, self.frames[0]
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        self.frames = []
"""

# As picamera2 names formats: by the highest byte first, so that BGR888 is R, G, B in memory.
PICAMERA2 = """
import pathlib
import numpy

FOLDER = pathlib.Path(__file__).parent

class Picamera2:
    def __init__(self):
        if not (FOLDER / "module.npy").exists():
            raise IndexError("list index out of range")

    def create_video_configuration(self, main):
        return main

    def configure(self, main):
        self.order = {"BGR888": 1, "RGB888": -1}[main["format"]]

    def start(self):
        self.frame = numpy.load(FOLDER / "module.npy")[:, :, ::self.order]

    def capture_array(self):
        return self.frame

    def close(self):
        print("closed")
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Photographs in which red and blue, left and right, top and bottom differ."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, pixels in PICTURES.items():
        Image.fromarray(pixels).save(folder / name)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    from vit_export.onnx import write_onnx
    from vit_export.tflite.write import write_tflite

    folder = tmp_path_factory.mktemp("files")
    write_onnx(DigitsParameters(), digits_record(), folder / "digits.onnx")
    write_tflite(DigitsParameters(), digits_record(), folder / "digits.tflite")
    features = toy_spec(num_classes=None)
    record = ModelRecord(features, Preprocessing(32), {"source": "random", "trained": False})
    write_onnx(RandomParameters(features), record, folder / "features.onnx")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folders(files, tmp_path_factory):
    """The unpacked bundles by the names of their files, the stand-ins for OpenCV and picamera2 in `modules` below."""
    made = {}
    for name, path in files.items():
        folder = tmp_path_factory.mktemp(path.stem)
        (entry,) = bundle(path, ["linux"], output=folder)
        made[name] = unpacked(entry.path, folder / "x")
        (made[name] / "modules").mkdir()
        (made[name] / "modules" / "cv2.py").write_text(CV2)
        (made[name] / "modules" / "picamera2.py").write_text(PICAMERA2)
    return made


def camera(folder, name, *frames):
    """Put RGB `frames` before the camera or file `name` of the stand-in, in OpenCV's order."""
    np.save(folder / "modules" / f"{name}.npy", np.stack([frame[:, :, ::-1] for frame in frames]))


def command(*arguments, without=()):
    script = (
        "import runpy, sys; sys.modules.update(dict.fromkeys("
        f"{['vit_export', *without]!r})); sys.path[:0] = ['', 'modules']; sys.argv = "
        f"{['classify.py', *arguments]!r}; runpy.run_path('classify.py', run_name='__main__')"
    )
    return [sys.executable, "-I", "-c", script]


def run(folder, *arguments, without=()):
    """classify.py by this interpreter, but without this package and the modules `without`."""
    return subprocess.run(
        command(*arguments, without=without), cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


def lines_of(text):
    """(probability, label) of each line that a camera's frame makes."""
    pattern = r"(\d\.\d{4})  (.*)  \(preprocessing \d+\.\d ms, model \d+\.\d ms\)"
    found = [re.fullmatch(pattern, line) for line in text.splitlines()]
    assert all(found), text
    return [(float(match[1]), match[2]) for match in found]


def assert_answers(found, expected, tolerance=1e-3):
    assert [label for _, label in found] == [label for label, _ in expected]
    assert np.abs([a - b for (a, _), (_, b) in zip(found, expected, strict=True)]).max() < tolerance


def best(path, picture):
    return top_classes(ours(path, picture), LABELS)[0]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["digits.onnx", "digits.tflite"])
def test_every_frame_of_a_video_is_answered_as_this_package_does(name, files, folders, pictures, tmp_path):
    folder = folders[name]
    (folder / "film.avi").touch()
    for picture in pictures:
        camera(folder, "film.avi", np.asarray(Image.open(picture)))
        done = run(folder, "--camera", "film.avi")
        assert done.returncode == 0, done.stderr
        expected = best(files[name], picture)
        assert_answers(lines_of(done.stdout), [expected])
    # The wrong order of colours would have been noticed.
    Image.fromarray(np.asarray(Image.open(pictures[0]))[:, :, ::-1]).save(tmp_path / "bgr.png")
    swapped, right = best(files[name], tmp_path / "bgr.png"), best(files[name], pictures[0])
    assert swapped[0] != right[0] or abs(swapped[1] - right[1]) > 0.01
    frames = [np.full((40, 60, 3), value, np.uint8) for value in range(0, 250, 50)]
    camera(folder, "film.avi", *frames)
    assert len(lines_of(run(folder, "--camera", "film.avi").stdout)) == len(frames)
    assert len(lines_of(run(folder, "--camera", "film.avi", "--frames", "2").stdout)) == 2


def test_a_camera_is_watched_until_ctrl_c(files, folders, pictures):
    folder = folders["digits.onnx"]
    camera(folder, "camera_9", np.asarray(Image.open(pictures[1])))
    process = subprocess.Popen(
        command("--camera", "9"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background are started deaf to Ctrl-C, and so would be what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    lines = process.stdout.readline() + process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == ""
    found = lines_of(lines + rest)
    assert_answers(found, [best(files["digits.onnx"], pictures[1])] * len(found))


def test_the_camera_module_of_a_raspberry_pi(files, folders, pictures):
    folder = folders["digits.onnx"]
    np.save(folder / "modules" / "module.npy", np.asarray(Image.open(pictures[0])))
    done = run(folder, "--camera", "pi", "--frames", "2", without=["cv2"])
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines(keepends=True)
    assert_answers(lines_of("".join(lines)), [best(files["digits.onnx"], pictures[0])] * 2)
    assert last.strip() == "closed"
    (folder / "modules" / "module.npy").unlink()
    assert "cannot be opened (list index out of range)" in sentence(run(folder, "--camera", "pi"))
    assert "needs picamera2" in sentence(run(folder, "--camera", "pi", without=["picamera2"]))


def test_features_of_frames_are_a_line_of_json_each(files, folders, pictures):
    folder = folders["features.onnx"]
    (folder / "film.avi").touch()
    camera(folder, "film.avi", np.asarray(Image.open(pictures[0])))
    (line,) = run(folder, "--camera", "film.avi").stdout.splitlines()
    np.testing.assert_allclose(json.loads(line), ours(files["features.onnx"], pictures[0]), atol=1e-5)


def sentence(done):
    """The one line by which a run failed."""
    assert done.returncode == 2, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["digits.onnx", "digits.tflite"])
def test_what_cannot_be_done_is_one_sentence(name, folders, pictures):
    folder = folders[name]
    assert "pip install opencv-python-headless" in sentence(run(folder, "--camera", without=["cv2"]))
    assert run(folder, str(pictures[0]), without=["cv2", "picamera2"]).returncode == 0
    assert "no frame from '3'" in sentence(run(folder, "--camera", "3"))
    assert "no frame from 'none.avi'" in sentence(run(folder, "--camera", "none.avi"))
    np.save(folder / "modules" / "camera_4.npy", np.zeros((0, 8, 8, 3), np.uint8))  # opened, but blind
    assert "no frame from '4'" in sentence(run(folder, "--camera", "4"))
    camera(folder, "camera_5", *[np.asarray(Image.open(pictures[0]))] * 3)  # unplugged after three frames
    assert "gives no more frames" in sentence(run(folder, "--camera", "5"))
    assert "none.jpg" in sentence(run(folder, "none.jpg"))
    assert "labels.txt" in sentence(run(folder, "labels.txt"))
    wrong = [[], ["a.jpg", "--camera", "0"], ["a.jpg", "--frames", "1"], ["a.jpg", "--threads", "0"], ["--frames", "x"]]
    for arguments in wrong:
        done = run(folder, *arguments)
        assert done.returncode == 2
        assert "classify.py: error: " in done.stderr
        assert "Traceback" not in done.stderr


def code_of(folder, name):
    return runpy.run_path(str(folder / f"{name}.py"))


@pytest.mark.parametrize("name", ["digits.onnx", "features.onnx", "digits.tflite"])
def test_a_slow_model_sees_the_newest_frame(name, folders):
    newest = code_of(folders[name], "camera")["newest"]
    given, enough = 0, threading.Condition()

    def read():
        nonlocal given
        with enough:
            given += 1
            enough.notify_all()
            return given

    before = threading.active_count()
    frames, seen = newest(read), []
    for _ in range(20):
        seen.append(next(frames))
        with enough:
            wanted = given + 10
            assert enough.wait_for(lambda wanted=wanted: given >= wanted, timeout=30)
            least = given - 1  # the one before may not be in its place yet
        assert next(frames) >= least
    assert seen == sorted(set(seen))
    frames.close()
    assert threading.active_count() == before
    stopped = given
    assert next(frames, None) is None
    assert given == stopped
    short = iter([1, 2, None])
    assert set(newest(lambda: next(short))) <= {1, 2}  # and then it ends


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_camera_that_fails_while_it_is_read_ends_the_frames(folders):
    def read():
        raise RuntimeError("unplugged")

    assert list(code_of(folders["digits.onnx"], "camera")["newest"](read)) == []


def test_threads_reach_the_runtimes(folders, monkeypatch):
    from ai_edge_litert import interpreter

    model = code_of(folders["digits.onnx"], "classifier")["Model"]
    assert model(3, {}).session.get_session_options().intra_op_num_threads == 3
    assert model(None, {}).session.get_session_options().intra_op_num_threads == 0  # its own choice
    asked, original = [], interpreter.Interpreter
    monkeypatch.setattr(
        interpreter, "Interpreter", lambda **options: asked.append(options["num_threads"]) or original(**options)
    )
    model = code_of(folders["digits.tflite"], "classifier")["Model"]
    for threads in (3, None):
        model(threads)
    assert asked == [3, len(os.sched_getaffinity(0))]


@pytest.mark.thorough
def test_providers_are_those_of_the_build(folders, pictures, monkeypatch):
    import onnxruntime

    folder, picture = folders["digits.onnx"], str(pictures[0])
    plain = run(folder, picture).stdout
    assert run(folder, picture, "--provider", "CPUExecutionProvider").stdout == plain
    said = sentence(run(folder, picture, "--provider", "Tensor"))
    assert "Tensor is not in this build" in said
    assert all(name in said for name in onnxruntime.get_available_providers())
    assert "NAME,KEY=VALUE" in run(folder, picture, "--provider", "CPUExecutionProvider,fast").stderr
    # What the build has but cannot start would be left out without an error.
    name = "OpenVINOExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [name, "CPUExecutionProvider"])
    code = code_of(folder, "classifier")
    started = f"{name} could not be started"
    with pytest.warns(UserWarning, match=name), pytest.raises(code["ModelError"], match=started):
        code["Model"](None, {name: {"device_type": "GPU"}})


def fresh(arguments, **options):
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= options.pop("env", {})
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, **options)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits.onnx", "digits.tflite"])
def test_the_instructions_lead_to_the_camera_in_a_fresh_environment(name, files, folders, pictures, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(folders[name], folder, ignore=shutil.ignore_patterns("modules"))
    first, second, *_ = re.findall(r"```sh\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shutil.copy(pictures[0], folder / "PHOTO.jpg")
    fresh(["sh", "-e", "-c", first.replace("python3 ", f"{sys.executable} ", 1)], cwd=folder)
    shutil.copy(pictures[1], folder / "one.png")  # OpenCV reads it as a video of one frame, bit by bit
    second = second.replace("--camera", "--camera one.png")
    said = fresh(["sh", "-e", "-c", second], cwd=folder).splitlines()[-1:]
    assert_answers(lines_of("\n".join(said)), [best(files[name], pictures[1])])
    python = str(folder / "venv/bin/python")
    film = (
        "import cv2, sys; frames = [cv2.resize(cv2.imread(path), (320, 240)) for path in sys.argv[1:]]; "
        "film = cv2.VideoWriter('film.avi', cv2.VideoWriter_fourcc(*'MJPG'), 5, (320, 240)); "
        "[film.write(frame) for frame in frames]; film.release(); "
        "[cv2.imwrite(f'{index}.png', frame) for index, frame in enumerate(frames)]"
    )
    fresh([python, "-c", film, *map(str, pictures)], cwd=folder)
    found = lines_of(fresh([python, "classify.py", "--camera", "film.avi"], cwd=folder))
    expected = [best(files[name], folder / f"{index}.png") for index in range(len(pictures))]
    assert_answers(found, expected, tolerance=0.05)  # MJPEG loses a little
    done = subprocess.run(
        [python, "classify.py", "--camera", "77"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "no frame from '77'" in sentence(done)


@pytest.mark.slow
@pytest.mark.skipif(available("arm64") is not None, reason=str(available("arm64")))
@pytest.mark.parametrize("name", ["digits.onnx", "digits.tflite"])
def test_the_instructions_lead_to_the_same_answer_on_arm64(name, files, folders, pictures, tmp_path):
    """By pip and the wheels of an arm64 Python under emulation; minutes, most of them pip's."""
    folder, pieces, site = folders[name], launch.folder(), tmp_path / "site"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    packages = shlex.split(re.search(r"venv/bin/pip install (.*)", readme)[1])
    shutil.copytree(Path(pip.__file__).parent, tmp_path / "pip" / "pip")  # written in Python: any processor's will do
    python = [launch.emulator(), "-cpu", launch.CPU, "-L", str(pieces / "root"), str(pieces / "root/usr/bin/python3")]
    install = [*python, "-m", "pip", "install", "--quiet", "--target", str(site), *packages]
    fresh(install, env={"PYTHONPATH": str(tmp_path / "pip")})
    machine = fresh([*python, "-c", "import platform; print(platform.machine())"])
    assert machine.strip() == "aarch64"
    text = fresh([*python, "classify.py", str(pictures[0])], cwd=folder, env={"PYTHONPATH": str(site)})
    found = [line.partition("  ") for line in text.splitlines()]
    expected = top_classes(ours(files[name], pictures[0]), LABELS)
    assert_answers([(float(share), label) for share, _, label in found], expected)
