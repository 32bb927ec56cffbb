"""`vit-export predict`: what a file says of images, prepared as the file itself says."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError
from vit_export.cli import options as shared
from vit_export.cli.finish import finish, progress, say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, PATH, THREADS, count

if TYPE_CHECKING:
    from vit_export.pipeline.predict import Predictions


@click.command("predict", cls=Command, context_settings=CONTEXT, short_help="Ask a file what is in images.")
@click.argument("file", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE...")
@count("--top", "Classes, or nearest images, of each.", 5)
@shared.reference("Of another tool's FILE: the model or checkpoint that it was made from.")
@shared.input_kind("a file of another tool takes.  [normalized]")
@THREADS
@AS_JSON
def predict_command(file: Path, images: tuple[Path, ...], reference: str | None, as_json: bool, **options: Any) -> None:
    """Ask FILE (.tflite, .onnx or SavedModel, or a folder with one of them) what is in each IMAGE, a file or a folder.

    Prints the most probable classes; of a model without classifier the images nearest to each other, or of a single
    image what its embedding looks like. The image is prepared as the record in the file says.

    Images that cannot be read are named on stderr, and the others answered.

    Exit codes: 0 good, 1 the file cannot be run, 2 the call was wrong or an image cannot be read.
    """
    with progress(quiet=reference is None) as reporter:
        from vit_export.pipeline.predict import predict

        found = predict(file, images, reference=reference, reporter=reporter, **options)

    finish(found.to_dict(), lambda: say("\n".join(_lines(found))), as_json=as_json, assumed=found.assumed)
    for note in found.notes:
        say(f"Note: {note}", err=True)
    for image, reason in found.unreadable:
        say(f"Cannot read the image {image}: {reason}.", err=True)
    if found.unreadable:
        count = len(found.images) + len(found.unreadable)
        raise InputError(f"{len(found.unreadable)} of {count} images cannot be read: replace or leave them out.")


def _lines(found: "Predictions") -> Iterator[str]:
    for entry in found.images:
        yield entry["image"]
        for row in entry.get("classes", ()):
            label = f"class {row['index']}" if row["label"] is None else row["label"]
            yield f"  {100 * row['probability']:5.1f} %  {label}"
        for value in entry.get("values", ()):
            yield f"  {value:.6g}"
        for row in entry.get("nearest", ()):
            yield f"  {row['cosine']:6.3f}  {row['image']}"
        if "nearest" in entry and not entry["nearest"]:
            first = " ".join(f"{value:.4g}" for value in entry["first"])
            more = " …" if entry["size"] > len(entry["first"]) else ""
            yield f"  {found.output}, {entry['size']} numbers of norm {entry['norm']:.4g}: {first}{more}"
