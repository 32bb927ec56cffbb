"""Type the commands of a newcomer's first hour in an empty folder, and write docs/first_hour.md with what they said.

    python docs/first_hour.py       takes some minutes; `vit-export` must be on the path, and scikit-learn installed

What is shown is what was printed, on both streams in order, without a terminal and with COLUMNS=80. Only the folder's
place is called ~/first-hour, and the seconds that steps took are left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vit_export.base.machine import cpu

PAGE = Path(__file__).with_suffix(".md")

TRAIN = """\
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from vit_export import create_vit

names = "zero one two three four five six seven eight nine".split()
digits = load_digits()
sharp = (digits.images * (255 / 16)).astype("uint8")
drawn = [Image.fromarray(digit).resize((32, 32)).convert("RGB") for digit in sharp]
for index, image in enumerate(drawn[:300]):
    folder = Path("test" if index < 100 else "photos") / names[digits.target[index]]
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{index}.png")
for index in range(16):  # images that show nothing, for one of the mistakes below
    Path("blank/representative").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (128, 128, 120 + index)).save(f"blank/representative/{index}.png")
    Path("blank/held_out").mkdir(exist_ok=True)
    drawn[index].save(f"blank/held_out/{index}.png")

x, y = np.stack([np.asarray(image, "float32") for image in drawn]) / 127.5 - 1, digits.target
model = create_vit("vit_ti16", image_size=32, num_classes=10, labels=names)
model.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x[100:], y[100:], epochs=12, verbose=0)
print("accuracy on 100 others:", round(model.evaluate(x[:100], y[:100], verbose=0)[1], 2))
model.save("digits.keras")
"""

HEAD = """\
# The first hour, as a terminal shows it

Everything below was typed in an empty folder, by a script, and is what the commands printed:
`python docs/first_hour.py` made this page, on {processor}.
The terminal was 80 columns wide (`COLUMNS=80`) and the output went to a file, as it does in CI: on a terminal the steps
have a moving line and colours. Longer lines are left as they came. The seconds that each step took are left out, and
milliseconds are those of a machine that did other work meanwhile: [measurements](measurements.md) has better ones.
"""

ADVISED = "<the command that was advised>"

STEPS: tuple[tuple[str, str], ...] = (
    ("## What is there\n\nThe help comes at once: nothing heavy is loaded for it.", "vit-export --help"),
    ("The variants of the paper, with what they cost and what they are for.", "vit-export list"),
    (
        "## The first export\n\nA variant by its name has random weights: good for trying an app or a board, and "
        "it says so. The photographs come with scikit-image; nothing is downloaded.",
        "vit-export vit_ti16 --tflite --int8",
    ),
    (
        "The last lines say what to type next. The answers mean nothing yet, as the note says.",
        "vit-export predict exports/vit_ti16-224/vit_ti16_int8.tflite calibration/held_out/camera-00.jpg",
    ),
    (
        "## A model of one's own\n\n`train.py` below fine-tunes nothing: it trains a `vit_ti16` from nothing on "
        "scikit-learn's handwritten digits (`pip install scikit-learn`), and writes some of them as images into a "
        "folder for each class. A model that was fine-tuned goes the same way.",
        "cat train.py",
    ),
    ("The first lines are TensorFlow's own.", "python train.py"),
    (
        "The `.keras` file brings its labels and its preprocessing along. `--calibration` is a folder of images "
        "like those that the app will see: some set the ranges of int8, others verify.",
        "vit-export digits.keras --tflite --onnx --int8 --calibration photos",
    ),
    (
        "Its answers have names now.",
        "vit-export predict exports/digits-32/digits_int8.tflite test/three/3.png test/seven/7.png --top 2",
    ),
    (
        "How often it is right, on images that nobody has used so far: the reference first, then the two files.",
        "vit-export evaluate exports/digits-32/saved_model exports/digits-32/digits_int8.tflite "
        "exports/digits-32/digits_int8.onnx --data test",
    ),
    (
        "Later, or on another machine, somebody asks whether the files are still the same model.",
        "vit-export verify exports/digits-32 --data photos --no-latency",
    ),
    ("What a file is, from the file alone.", "vit-export inspect exports/digits-32/digits_int8.tflite"),
    (
        "One zip for whoever builds the app: the file, the code that turns an image into an answer, a card.",
        "vit-export bundle exports/digits-32/digits_int8.tflite --target linux --target android",
    ),
    (
        "## When it goes wrong\n\nThe ranges of int8 come from the images that calibrate. Here they show nothing: "
        "grey, all of them. The file is written, and it FAILS. The command ends with 1, says why, and "
        "what to type next.",
        "vit-export digits.keras --name blank --tflite --int8 --calibration blank",
    ),
    ("Typed as it stands, it makes a file whose ranges are found while it runs, which passes:", ADVISED),
    ("An option that there is not is answered by what it probably meant.", "vit-export digits.keras --onnx --half"),
    (
        "So is what cannot be done, before anything is loaded or written: one sentence, and exit code 2.",
        "vit-export digits.keras --tflite --image-size 30",
    ),
    ("A checkpoint that is not there:", "vit-export weights/vit.safetensors --tflite"),
)


def main() -> None:
    """Run `STEPS` in a folder of its own and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "first-hour")
        here.mkdir()
        (here / "train.py").write_text(TRAIN, encoding="utf-8")
        features = ", ".join(cpu().features) or "none of the features that speed int8 up"
        text = "\n".join((HEAD.format(processor=f"a processor with {features}"), *_recorded(here)))
    PAGE.write_text(text, encoding="utf-8")


def _recorded(here: Path) -> Iterator[str]:
    said = ""
    for prose, command in STEPS:
        typed = re.findall(r"^  (vit-export .+)$", said, re.MULTILINE)[-1] if command == ADVISED else command
        print(f"$ {typed}", file=sys.stderr)
        code, said = _run(typed, here)
        if "Traceback" in said:
            raise SystemExit(said)
        if prose:
            yield f"{prose}\n"
        ends = f"$ echo $?\n{code}\n" if code else ""
        yield f"```console\n$ {typed}\n{said}{ends}```\n"


def _run(command: str, here: Path) -> tuple[int, str]:
    """The exit code of `command`, and what it printed, with nothing in it of this machine."""
    environment = {**os.environ, "COLUMNS": "80", "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=here,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    said = done.stdout.replace(str(here), "~/first-hour")
    said = re.sub(r"^((?:done|failed)  .*?)  [\d.]+ (?:s|min)$", r"\1", said, flags=re.MULTILINE)
    said = re.sub(r"^([IWE]0000) 00:00:[\d.]+ +\d+", r"\1", said, flags=re.MULTILINE)  # absl's clock and process
    lines = [line.rstrip() for line in said.splitlines()]
    return done.returncode, "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
