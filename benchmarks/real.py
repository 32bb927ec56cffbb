"""Really trained weights in every format, precision and int8 scheme, and what other quantizers make of them.

    python benchmarks/real.py [--only TEXT,…] [--no-peers] [--no-probe] [--photographs FOLDER] [--avx2] [--rounds 30]
                              [--json FILE]

DINOv2-S/14 (real_weights.py) is exported as a user would, on the default photographs; the peers (real_peers.py) are
given the same weights and the same 128 images. Columns: signal to quantization noise of the class token's features in
dB, median and worst of 32 held-out photographs, against the float model in Keras; the worst cosine; accuracy of a
linear probe that was fitted to the float model's features of 600 digits, on 300 others (not where an image takes more
than a second); median ms of one call on one thread, all files taking turns, and how many times faster than the float32
file of the same runtime; MB; seconds to make, tuning included. `--only int8` measures the files whose name holds that
text, beside the float32 ones. `--photographs` judges by the images of a folder instead. `--avx2` judges and times them
as on a processor with AVX2 alone (real_avx2.py): they are made as ever, and AVX-512, VNNI and AMX are hidden from the
processes that run them.
"""

import json
import tempfile
from pathlib import Path

import click
from real_avx2 import Avx2
from real_files import File, Material, ours
from real_peers import peers
from real_quality import Judge
from real_rows import Clock, Row, judge, make, process_of, take_times

from vit_export.base.errors import InputError
from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow
from vit_export.base.versions import PACKAGES, versions


def chosen(files: list[File], only: str) -> tuple[list[File], list[File]]:
    """The files whose label holds a text of `only` (all if it is empty), and others that they are compared with."""
    wanted = [text.strip().lower() for text in only.split(",") if text.strip()]
    kept = [file for file in files if not wanted or any(text in file.label.lower() for text in wanted)]
    if not kept:
        raise click.BadParameter(f"no file's name holds {only!r}: there are {', '.join(f.label for f in files)}")
    labels = {file.basis for file in kept} - {file.label for file in kept}
    return kept, [file for file in files if file.label in labels]


def table(rows: list[Row]) -> list[str]:
    """The lines of the table."""
    heads = f"{'dB median':>10}{'worst':>7}{'cosine':>9}{'probe %':>9}{'ms':>8}{'faster':>8}{'MB':>7}{'made s':>8}"
    lines = [f"{'':30}{heads}"]
    for row in rows:
        q = row.quality
        cells = [
            (10, q and f"{q.sqnr_median:.1f}"),
            (7, q and f"{q.sqnr_worst:.1f}"),
            (9, q and f"{q.cosine_worst:.5f}"),
            (9, q and q.probe is not None and f"{100 * q.probe:.1f}"),
            (8, row.median_ms and f"{row.median_ms:.1f}"),
            (8, row.faster and f"{row.faster:.2f}"),
            (7, row.bytes and f"{row.bytes / 1e6:.1f}"),
            (8, row.seconds is not None and f"{row.seconds:.0f}"),
        ]
        text = "".join(f"{cell or '-':>{width}}" for width, cell in cells)
        lines.append(f"{row.file.label:30}{row.error if row.error and not q else text}")
        if row.error and q:
            lines.append(f"{'':30}{row.error}")
    return lines


@click.command()
@click.option("--only", default="", metavar="TEXT,…", help="Only files whose name holds one of these texts.")
@click.option("--peers/--no-peers", "with_peers", default=True, help="Other quantizers' files.", show_default=True)
@click.option("--probe/--no-probe", "with_probe", default=True, help="The linear probe on digits.", show_default=True)
@click.option(
    "--photographs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Judge by its images, not by the held-out photographs.",
)
@click.option("--avx2", "as_avx2", is_flag=True, help="Hide AVX-512, VNNI and AMX from what runs the files.")
@click.option("--rounds", default=30, show_default=True, help="Calls of the slowest file, one a round; 0: no timing.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything there.")
def main(
    only: str,
    with_peers: bool,
    with_probe: bool,
    photographs: Path | None,
    as_avx2: bool,
    rounds: int,
    json_file: Path | None,
) -> None:
    """Make, judge and time the files, and print the table."""
    import_tensorflow()
    clock = Clock()
    with tempfile.TemporaryDirectory() as work:
        avx2 = Avx2(Path(work, "avx2")) if as_avx2 else None
        material = Material(Path(work), clock)
        files = ours(material) + (peers(material) if with_peers else [])
        kept, beside = chosen(files, only)
        material.prepare()
        clock.taken()
        rows = [Row(file) for file in files if file in [*beside, *kept]]
        for row in rows:
            make(row, clock)
        image = material.data.held_out.normalized(1)[0]
        if avx2:
            for row in rows:
                if row.path is not None and row.file.label == row.file.basis:
                    avx2.prove_use(process_of(row, 1), image)
        judged = Judge(material, clock.step, photographs, probe=with_probe)
        for row in rows:
            if row.path is not None and row.file in kept:
                judge(row, judged, avx2)
        timed = [row for row in rows if row.path is not None and not row.error]
        if rounds and timed:
            take_times(timed, image, rounds, avx2)
        accuracy = judged.probe[2] if with_probe else None
    machine = avx2.cpu if avx2 else cpu()
    hidden = ", AVX-512, VNNI and AMX hidden from the runtimes" if avx2 else ""
    floats = "" if accuracy is None else f"; the probe on the float model's features: {100 * accuracy:.1f} %"
    click.echo(f"{machine.model} ({', '.join(machine.features)}), one thread{hidden}{floats}")
    click.echo("\n".join(table(rows)))
    if json_file is not None:
        packages = versions(*PACKAGES, "openvino", "nncf")
        told = {"cpu": machine.to_dict(), "hidden": bool(avx2), "versions": packages}
        told |= {"probe_float": accuracy, "rounds": rounds}
        json_file.write_text(json.dumps({**told, "rows": [row.to_dict() for row in rows]}, indent=1) + "\n")
    if any(row.error for row in rows if row.file.ours):
        raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"{error}") from error
