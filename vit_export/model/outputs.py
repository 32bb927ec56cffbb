"""What a model can return, and which of it a spec's own sizes allow."""

from collections.abc import Iterable
from typing import Any

from vit_export.base.errors import InputError, nearest

RETURNS = {
    "logits": "What the classifier says, a number a class.",
    "pooled": "The family's own embedding: behind the pre-logits layer (Hugging Face's pooler, CLIP's projection), or "
    "what attention pools (SigLIP).",
    "features": "What is pooled of the tokens, before any pre-logits layer: the class token, or what stands for it.",
    "tokens": "All tokens after the final LayerNorm: class token, registers, patches.",
}
"""What a model can return, by the name of the output, in the order in which files have them."""

PROJECTION = "image_embeds"
TRANSFORMERS = {"tokens": "last_hidden_state", "pooled": "pooler_output", "features": "pooler_output"}
"""What transformers' models, and the tools that load their files, call outputs; a projection is `PROJECTION` there."""


def usual(spec: Any) -> str:
    """The output of `spec` (a ViTSpec) where none is asked for."""
    if spec.num_classes is not None:
        return "logits"
    return "features" if spec.pre_logits_size is None else "pooled"


def shapes_of(spec: Any) -> dict[str, tuple[int, ...]]:
    """The outputs of `spec` by name, in order, with the shape of each for one image."""
    shapes = {
        "logits": (spec.num_classes or 0,),
        "pooled": (spec.pre_logits_size or spec.hidden_size,),
        "features": (spec.hidden_size,),
        "tokens": (spec.num_tokens, spec.hidden_size),
    }
    return {name: shapes[name] for name in spec.returns or (usual(spec),)}


def transformers_names(spec: Any) -> dict[str, str]:
    """What the outputs of `spec` are called in transformers, by our names, each once.

    `pooled` is the family's own embedding: where it is the `pooler_output`, features beside it keep their name.
    """
    names = {name: TRANSFORMERS.get(name, name) for name in spec.outputs}
    if "pooled" in names and spec.pre_logits_size is not None and spec.pre_logits_activation == "linear":
        names["pooled"] = PROJECTION
    elif {"pooled", "features"} <= set(names):
        names["features"] = "features"
    return names


def names_in_file(spec: Any, found: Iterable[str]) -> dict[str, str]:
    """What a file of `spec`, whose outputs are called as `found`, is to call each: transformers' names, or ours.

    One of transformers' is enough: then all have to be.
    """
    theirs = transformers_names(spec)
    foreign = {PROJECTION, *TRANSFORMERS.values()}
    return theirs if foreign.intersection(found) else {name: name for name in theirs}


def checked(spec: Any) -> tuple[str, ...]:
    """`spec.returns` in the order of RETURNS; empty where it is the usual output alone.

    Raises:
        InputError: there is no such output, or it does not go with the rest of `spec`.
    """
    names = _names(spec.returns) or (usual(spec),)
    listed = " and ".join(names)
    if ("logits" in names) != (spec.num_classes is not None):
        raise InputError(
            "There are no logits without a classifier: leave them out of what is returned."
            if spec.num_classes is None
            else f"A model that returns {listed} has no classifier: num_classes is {spec.num_classes}, expected None, "
            "or logits among what is returned."
        )
    if "pooled" in names and spec.pre_logits_size is None and spec.pooling != "attention":
        raise InputError(
            "There is no pooled output without a pre-logits layer (pooler, projection) or attention pooling: ask for "
            "features."
        )
    if spec.pre_logits_size is not None and not {"logits", "pooled"} & set(names):
        raise InputError(
            f"A model that returns {listed} has no pre-logits layer: pre_logits_size is {spec.pre_logits_size}, "
            "expected None."
        )
    if {"features", "pooled"} <= set(names) and spec.pre_logits_size is None:
        raise InputError("features and pooled are one and the same where attention pools: ask for one of the two.")
    if spec.l2_normalize and not {"features", "pooled"} & set(names):
        raise InputError(
            f"A model that returns {listed} has no embedding to be divided by its length: return features or pooled, "
            "or leave l2_normalize out."
        )
    return () if names == (usual(spec),) else names


def _names(given: Any) -> tuple[str, ...]:
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise InputError(f"returns is {given!r:.60}, expected a list of some of {', '.join(RETURNS)}.")
    if unknown := [name for name in given if name not in RETURNS]:
        guess = nearest(unknown[0], RETURNS)
        hint = f"did you mean {guess!r}?" if guess else f"choose from {', '.join(RETURNS)}."
        raise InputError(f"Unknown output {ascii(unknown[0])[:60]} in returns: {hint}")
    if len(set(given)) < len(given):
        raise InputError(f"returns is {', '.join(given)}: give each once.")
    return tuple(name for name in RETURNS if name in given)
