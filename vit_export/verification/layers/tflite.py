"""The interior tensors of a .tflite file, computed by the kernels that an app would use."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from vit_export.base.machine import usable_cores
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes.interior import KeptTensors, native
from vit_export.verification.layers.tensors import Interior, of_one


class TFLiteInterior(Interior):
    """A .tflite file in ai-edge-litert's interpreter, with every tensor kept (`runtimes.interior`)."""

    def __init__(self, path: Path, spec: TensorSpec, output: int) -> None:
        self._kept, self._spec, self._place = KeptTensors(path, usable_cores()), spec, output

    @property
    def output(self) -> str:
        """See `Interior`."""
        index = self._kept.output(self._place)
        return next(name for name, detail in self._kept.details.items() if detail["index"] == index)

    def candidates(self, image: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[str, np.ndarray]]:
        """See `Interior`."""
        batch = self._run(image)
        wanted = {size * batch for size in sizes}
        for name, detail in self._kept.details.items():
            if int(np.prod(detail["shape"])) in wanted and (values := self._kept.values(detail)) is not None:
                yield name, of_one(values, batch)

    def read(self, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Interior`."""
        batch = self._run(image)
        found = {name: self._kept.values(self._kept.details[name]) for name in (*names, self.output)}
        return {name: of_one(values, batch) for name, values in found.items() if values is not None}

    def _run(self, image: np.ndarray) -> int:
        values = native(image, self._spec)
        self._kept.run(values)
        return len(values)
