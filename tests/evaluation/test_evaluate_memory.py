"""Memory does not grow with the number of images: 50,000 JPEGs, the whole tree of processes below 1.5 GB."""

import contextlib
import io
import tarfile
import threading

import psutil
import pytest
from helpers.data_sets import files
from PIL import Image
from skimage import data

from vit_export.evaluation.evaluate import evaluate

pytest.importorskip("pyarrow")

COUNT, PER_TAR = 50_000, 5_000
LIMIT = 1.5e9


def jpegs():
    """Bytes of some hundred different photographs of 200 x 150 pixels."""
    found = []
    for image in (data.astronaut(), data.chelsea(), data.coffee()):
        for number in range(64):
            part = Image.fromarray(image[number : number + 200, number : number + 200]).resize((200, 150))
            file = io.BytesIO()
            part.save(file, "JPEG", quality=90)
            found.append(file.getvalue())
    return found


@pytest.mark.slow
def test_fifty_thousand_images_fit_in_little_memory(tmp_path):
    images = jpegs()
    for shard in range(COUNT // PER_TAR):
        with tarfile.open(tmp_path / f"photos-{shard:04d}.tar", "w") as tar:
            for number in range(shard * PER_TAR, (shard + 1) * PER_TAR):
                for ending, content in (("jpg", images[number % len(images)]), ("cls", b"%d" % (number % 10))):
                    member = tarfile.TarInfo(f"{number:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    own, peak, done = psutil.Process(), [0.0], threading.Event()
    before = own.memory_info().rss

    def watch():
        while not done.wait(0.2):
            total = own.memory_info().rss - before
            for child in own.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += child.memory_info().rss
            peak[0] = max(peak[0], total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    made = files(tmp_path)  # TensorFlow, which writes the files, is in this process and not counted
    before = own.memory_info().rss
    peak[0] = 0.0
    found = evaluate(made[:2], f"{tmp_path}/photos-{{0000..0009}}.tar", workers=2)
    done.set()
    watcher.join()
    print(f"{peak[0] / 1e9:.2f} GB beside what this process had before")
    assert found.figures.images == COUNT
    assert found.figures.labelled == COUNT
    assert peak[0] < LIMIT
