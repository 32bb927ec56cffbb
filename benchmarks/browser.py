"""Web bundles in a browser: bytes of the model and milliseconds per frame, interleaved in one run.

    python benchmarks/browser.py [--variant vit_s32] [--frames 25] [--isolated] [--json]

Exports the variant with random weights in every precision of both formats, bundles each for the web, and answers the
same frame of 640 x 480 pixels again and again in an installed Chromium without a window, one frame of each file in
turn. Needs npm, which fetches the runtimes, and playwright. `--isolated` sends the headers that let a page use
threads.
"""

import functools
import http.server
import json
import shutil
import statistics
import subprocess
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import click
from PIL import Image

from vit_export.base.machine import cpu
from vit_export.bundles.pack import bundle
from vit_export.bundles.targets import ROWS
from vit_export.images.photographs import write_photographs
from vit_export.model.artifact import Artifact
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CALIBRATION_IMAGES = 32

LOAD = """async () => {
  const [{load, classify}, {fit, imageData}] = await Promise.all([import("./classify.mjs"), import("./pixels.mjs")]);
  const image = await createImageBitmap(await (await fetch("frame.png")).blob());
  const start = performance.now(), model = await load();
  window.frame = async () => {
    const start = performance.now(), pixels = fit(imageData(image)), prepared = performance.now();
    await classify(model, image);
    return [prepared - start, performance.now() - prepared];
  };
  await window.frame();
  return performance.now() - start;
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves without a word; `isolated` pages may use threads."""

    isolated = False

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def end_headers(self) -> None:
        """Send the headers of an isolated page, if it is one."""
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


class Isolated(Quiet):
    """Serves pages that may use threads."""

    isolated = True


def exported(variant: str, folder: Path) -> list[Artifact]:
    """The variant's files of both formats and every precision."""
    calibration = folder / "photographs"
    write_photographs(calibration)
    request = ExportRequest(
        spec=ViTSpec.of(variant),
        output=folder / "export",
        formats=("tflite", "onnx"),
        precisions=("float32", "float16", "int8"),
        calibration=calibration,
        calibration_images=CALIBRATION_IMAGES,
        verify=False,
    )
    return [artifact for artifact in export(request).artifacts if artifact.format != "saved_model"]


def installed(root: Path) -> None:
    """The runtimes that the instructions of bundles name, in `root`/node_modules."""
    names = [f"{row.runtime}@{row.release}" for (target, _), row in ROWS.items() if target == "web"]
    command = ["npm", "install", "--prefix", ".", "--ignore-scripts", "--no-audit", "--no-fund", *names]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def site(artifact: Artifact, root: Path) -> str:
    """Unpack the web bundle of a file below `root` and add a page without index.html's script; the page's address."""
    name = Path(artifact.path).name
    (made,) = bundle(artifact.path, ["web"], output=root / "zips")
    with zipfile.ZipFile(made.path) as archive:
        archive.extractall(root / name)
    (root / name / "node_modules").symlink_to(root / "node_modules", target_is_directory=True)
    shutil.copyfile(root / "frame.png", root / name / "frame.png")
    page = (root / name / "index.html").read_text(encoding="utf-8").partition('<script type="module">')[0]
    (root / name / "bench.html").write_text(page, encoding="utf-8")
    return f"{name}/bench.html"


def measured(addresses: dict[str, str], frames: int) -> tuple[dict[str, dict[str, float]], str, int]:
    """Milliseconds by name (`load` with the first frame; medians of `preparing` and `frame`), browser, processors."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise click.ClickException(f"No installed Chromium was found ({', '.join(BROWSERS)}).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        pages, loads, seen = {}, {}, {name: [] for name in addresses}
        for name, address in addresses.items():
            pages[name] = browser.new_page()
            pages[name].goto(address)
            loads[name] = pages[name].evaluate(LOAD)
        for _ in range(frames):
            for name, page in pages.items():
                page.bring_to_front()  # tabs behind others get less time
                preparing, answering = page.evaluate("frame()")
                seen[name].append((preparing, answering))
        processors = page.evaluate("navigator.hardwareConcurrency")
        found = {
            name: {
                "load": loads[name],
                "preparing": statistics.median(preparing for preparing, _ in times),
                "frame": statistics.median(answering for _, answering in times),
            }
            for name, times in seen.items()
        }
        version = browser.version
        browser.close()
    return found, version, processors


@click.command()
@click.option("--variant", default="vit_s32", show_default=True)
@click.option("--frames", default=25, show_default=True, help="Of each file.")
@click.option("--isolated", is_flag=True, help="With the headers that let a page use threads.")
@click.option("--json", "as_json", is_flag=True)
def main(variant: str, frames: int, isolated: bool, as_json: bool) -> None:
    """Measure and print one row per file."""
    from skimage import data

    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        artifacts = exported(variant, root)
        installed(root)
        (root / "zips").mkdir()
        Image.fromarray(data.astronaut()).resize((640, 480)).save(root / "frame.png")
        handler = functools.partial(Isolated if isolated else Quiet, directory=work)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/"
        addresses = {Path(artifact.path).name: base + site(artifact, root) for artifact in artifacts}
        found, version, processors = measured(addresses, frames)
        server.shutdown()
    sizes = {Path(artifact.path).name: artifact.bytes for artifact in artifacts}
    if as_json:
        told = {"cpu": cpu().to_dict(), "browser": version, "isolated": isolated, "bytes": sizes, "milliseconds": found}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(f"{cpu().model}, {processors} processors, Chromium {version}; median of {frames} frames, in turn")
    click.echo(f"{'file':28}{'MB':>8}{'load ms':>10}{'preparing ms':>14}{'frame ms':>10}")
    for name, times in found.items():
        cells = f"{times['load']:10.0f}{times['preparing']:14.1f}{times['frame']:10.1f}"
        click.echo(f"{name:28}{sizes[name] / 1e6:8.1f}{cells}")


if __name__ == "__main__":
    main()
