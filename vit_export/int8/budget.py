"""What an int8 file has to keep: the budget of the scheme `auto`, judged once, when an export is asked for."""

from dataclasses import dataclass

from vit_export.base.errors import InputError
from vit_export.model.names import DEFAULT_MIN_SQNR, DEFAULT_MIN_SQNR_UNTRAINED
from vit_export.model.spec import ViTSpec

MOST_DB = 150.0
"""float32 itself is about 120 dB away from the reference."""


@dataclass(frozen=True)
class Measured:
    """A file against the reference: `metrics.overall_sqnr_db`, and with a classifier `Comparison.agreement`."""

    sqnr_db: float
    agreement: float | None = None

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", {100 * self.agreement:.1f} % of the top classes"
        return f"{self.sqnr_db:.1f} dB{agreement}"


@dataclass(frozen=True)
class Budget:
    """What a file has to keep: `min_sqnr` in dB, `min_agreement` as a share of images, or both.

    Raises:
        InputError: on construction, when there is neither or a value that nothing can be measured against.
    """

    min_sqnr: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.min_sqnr is None and self.min_agreement is None:
            raise InputError(
                "The int8 scheme 'auto' needs to know what to keep: give a least signal-to-noise ratio in dB, or a "
                "least share of images whose top class stays."
            )
        for name, value, most, expected in (
            ("min_sqnr", self.min_sqnr, MOST_DB, f"dB above 0 and up to {MOST_DB:g}, such as 35"),
            ("min_agreement", self.min_agreement, 1.0, "a share above 0 and up to 1, such as 0.99"),
        ):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value <= most):
                shown = f"{value:g}" if number else repr(value)
                raise InputError(f"{name} is {shown}, expected {expected}.")

    def check(self, spec: ViTSpec) -> None:
        """Raise InputError when outputs of `spec` cannot be judged so."""
        if self.min_agreement is not None and spec.num_classes is None:
            raise InputError(
                f"{spec.name} has no classifier, so there is no top class to agree on: give a least signal-to-noise "
                "ratio instead."
            )

    def sqnr_kept(self, measured: Measured) -> bool:
        """Whether the noise is low enough, or the budget does not ask for that."""
        return self.min_sqnr is None or measured.sqnr_db >= self.min_sqnr

    def agreement_kept(self, measured: Measured) -> bool:
        """Whether enough top classes stay, or the budget does not ask for them."""
        return self.min_agreement is None or (measured.agreement or 0.0) >= self.min_agreement

    def kept(self, measured: Measured) -> bool:
        """Whether a file with these figures keeps to the budget."""
        return self.sqnr_kept(measured) and self.agreement_kept(measured)

    def __str__(self) -> str:
        wanted = [] if self.min_sqnr is None else [f"{self.min_sqnr:g} dB"]
        wanted += [] if self.min_agreement is None else [f"{100 * self.min_agreement:g} % of the top classes"]
        return " and ".join(wanted)


def default_budget(*, trained: bool) -> Budget:
    """What a file has to keep where nobody said."""
    return Budget(DEFAULT_MIN_SQNR if trained else DEFAULT_MIN_SQNR_UNTRAINED)
