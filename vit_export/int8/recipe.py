"""How one int8 file is made, in either format: what computes in what, and what was tuned."""

from dataclasses import dataclass, field

from vit_export.int8.modes import Modes
from vit_export.int8.rounding import Levels
from vit_export.int8.tune import Tuning


@dataclass(frozen=True)
class Recipe:
    """How one int8 file is made: what it is called, what computes in what, what was tuned, what to tell people of it.

    Without `modes` every operator is quantized.
    """

    scheme: str
    modes: Modes | None
    tuning: Tuning = field(default_factory=Tuning)
    notes: tuple[str, ...] = ()

    @property
    def kernels(self) -> dict[str, Levels]:
        """The kernels that were rounded by error, but for those that this file holds in float."""
        if self.modes is None:
            return dict(self.tuning.kernels)
        rounded = self.tuning.kernels.items()
        return {name: kernel for name, kernel in rounded if self.modes.dense(name.removesuffix("/kernel")) != "float"}

    @property
    def calibrates(self) -> bool:
        """Whether ranges are needed."""
        return self.modes is None or self.modes.need_ranges
