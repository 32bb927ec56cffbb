"""MODEL_CARD.md and LICENCE: what a record and a report say, and where they say nothing, that."""

from typing import Any

from vit_export.base.numbers import NONE, megabytes, number
from vit_export.base.text import counted, visible
from vit_export.bundles.code import markdown, preprocessing, templates, what
from vit_export.bundles.source import Subject
from vit_export.model.names import scheme_of
from vit_export.report.view import COLUMNS, base_name, image_names, listed, record, text
from vit_export.weights.remote.fetch import is_remote, shown

NOT_MEASURED = "not measured"


def model_card(subject: Subject, conversion: str | None = None) -> str:
    """MODEL_CARD.md; `conversion` is a sentence on how the bundle's model was made of the file, where it was."""
    return (
        templates()
        .get_template("MODEL_CARD.md.j2")
        .render(
            name=markdown(subject.path.name),
            what=what(subject),
            facts=_facts(subject),
            weights=_weights(subject),
            measured=_measured(subject, conversion),
            limits=_limits(subject),
        )
    )


def licence_missing(subject: Subject) -> str:
    """The text in place of a licence that nobody gave."""
    given = "No licence was given for this model when it was bundled (vit-export bundle --licence FILE).\n"
    if subject.record.weights.get("source") == "random":
        return f"{given}\nIts weights are random numbers, drawn by vit-export: they are nobody's work.\n"
    weights = subject.record.weights
    source, location = visible(text(weights.get("source"), "not recorded")), visible(_location(weights))
    return (
        f"{given}\n"
        "The terms that apply are those of its weights, which belong to whoever made them:\n\n"
        f"    source:   {source}\n    location: {location}\n\n"
        "Ask there before you pass the model on.\n"
    )


def _facts(subject: Subject) -> list[tuple[str, str]]:
    spec, artifact = subject.record.spec, subject.artifact
    kind = " ".join(filter(None, (artifact.format, artifact.precision, artifact.scheme)))
    rows = [
        ("architecture", f"Vision Transformer, {spec.num_layers} layers of width {spec.hidden_size}, patches of "
         f"{spec.patch_size} pixels, {spec.num_parameters / 1e6:.1f} M parameters"),
        ("name", markdown(spec.name)),
        ("file", f"{markdown(kind)}, {megabytes(artifact.bytes)}"),
        ("sha256", artifact.sha256),
        ("input", preprocessing(subject)),
        ("output", f"{subject.output.name}, {subject.output.dtype} {list(subject.output.shape)}"),
        *(("further output, which the code does not read", f"{entry.name}, {entry.dtype} {list(entry.shape)}")
          for entry in artifact.outputs[1:]),
        ("labels", "no names of the classes" if subject.record.labels is None else
         f"{len(subject.record.labels)} names of classes"),
    ]  # fmt: skip
    return rows if subject.classifies else rows[:-1]


def _weights(subject: Subject) -> list[tuple[str, str]]:
    weights = subject.record.weights
    rows = [
        ("source", text(weights.get("source"), "not recorded")),
        ("location", _location(weights)),
        ("fitted", "yes" if subject.record.trained else "no, or not all of them (see the limits)"),
        ("fingerprint", subject.record.fingerprint or "not recorded"),
    ]
    made_from = record(weights.get("made_from"))
    rows += [(key, text(weights.get(key))) for key in ("revision", "file", "sha256") if text(weights.get(key))]
    if made_from:
        rows.append(("made from", _location(made_from)))
    seeds = (("seed", "random seed"), ("new_classifier_seed", "random seed of a new classifier"))
    rows += [(called, str(weights[key])) for key, called in seeds if isinstance(weights.get(key), int)]
    return [(key, markdown(value)) for key, value in rows]


def _location(weights: Any) -> str:
    """Where weights are: an address without what it may hide, of a local path the last part alone."""
    location = text(weights.get("location"))
    if not location:
        return "not recorded"
    return shown(location) if is_remote(location) or "://" in location else base_name(location)


def _measured(subject: Subject, conversion: str | None) -> dict[str, Any]:
    notes = [conversion] if conversion else []
    if subject.result is None:
        return {"intro": "Not measured: no report beside the file has verified these very bytes.", "rows": [],
                "notes": notes}  # fmt: skip
    report, result = subject.report, subject.result
    verification = record(report.get("verification"))
    images, threads = len(image_names(report)), number(verification.get("threads"))
    cpu = record(verification.get("cpu"))
    machine = [text(cpu.get("model"), "a processor that was not recorded"), text(record(report.get("machine")).get(
        "platform"))]  # fmt: skip
    verdict = {"pass": "passed", "fail": "FAILED"}.get(result.verdict, "was not verified")
    on = "" if threads is None else f", {counted(threads, 'thread')}"
    intro = (
        f"The file {verdict} vit-export's verification on {counted(images, 'image')}, against the float32 model of "
        f"the same weights, on {text(report.get('created'), 'an unrecorded date')[:10]}. Outputs are of the worst "
        f"image. Times are of {markdown(', '.join(filter(None, machine)))}{on}: other machines differ."
    )
    cells = result.cells(None)
    rows = [
        (heading[:1].lower() + heading[1:], NOT_MEASURED if cells[key].value == NONE else markdown(cells[key].value),
         markdown(cells[key].note))
        for key, heading in COLUMNS.items()
        if (key != "agreement" or subject.classifies) and (key != "neighbours" or cells[key].value != NONE)
    ]  # fmt: skip
    notes += [f"Failed: {markdown(failure)}" for failure in result.failures if result.failed]
    notes += [f"Note: {markdown(text(note))}" for note in listed(result.artifact.get("notes")) if text(note)]
    return {"intro": intro, "rows": rows, "notes": notes}


def _limits(subject: Subject) -> list[str]:
    artifact, found = subject.artifact, []
    if not subject.record.trained:
        part = "The classifier is" if "new_classifier_seed" in subject.record.weights else "The weights are"
        found.append(f"{part} untrained: the answers mean nothing yet.")
    if assumed := subject.record.assumed:
        found.append(
            f"Assumed, for the weights do not say it: {markdown('; '.join(assumed.values()))}. If that is wrong, so "
            "are the answers, and no measurement here can show it."
        )
    if subject.result is None or not subject.result.part("accuracy"):
        found.append("Accuracy on labelled images: not measured. How good the answers are is not known from here.")
    if subject.classifies:
        found.append(
            "It always answers with one of its classes, also for an image of none of them; the probabilities say "
            "little about that."
        )
    elif subject.record.answers is None:
        found.append("Features of this file compare with features of the same weights and precision alone.")
    found.append("Other preprocessing than the one above gives other answers, without any error.")
    if artifact.precision == "int8":
        scheme = scheme_of(artifact.format, artifact.scheme)
        found.append(scheme.caution if scheme else "Weights are int8, by a scheme that was not recorded.")
    if artifact.precision == "float16":
        found.append("Weights are float16, whose largest number is 65,504 and which holds three decimal digits.")
    return found
