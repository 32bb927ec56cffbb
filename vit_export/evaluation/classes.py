"""From what a data set calls a class to its number in the model's outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vit_export.base.errors import InputError, nearest
from vit_export.base.files import shortened
from vit_export.evaluation.data import Item
from vit_export.images.pictures import named_classes

SORTED = "sorted"
"""In place of a file of names: folders in alphabetical order are classes 0, 1, ... (torchvision's ImageFolder)."""


@dataclass(frozen=True)
class Classes:
    """`count` classes; `names` are what folders and labels may be called, and the class that each then is."""

    count: int | None
    names: Mapping[str, int] = field(default_factory=dict)

    def index(self, item: Item) -> int | None:
        """The class of `item`; None where its data set does not say one, or the model has no classes.

        Raises:
            InputError: it is called like none of the classes, or its number is none of theirs.
        """
        label = item.label
        if label is None or self.count is None:
            return None
        if isinstance(label, str):
            if label not in self.names:
                guess = nearest(label, self.names)
                hint = f", did you mean '{guess}'?" if guess else ""
                raise InputError(
                    f"{shortened(item.name)} is labelled '{shortened(label)}', which is called like no class{hint}: "
                    f"give the names in the order of the classes to --labels ('{SORTED}': folders by the alphabet)."
                )
            label = self.names[label]
        if not 0 <= label < self.count:
            raise InputError(
                f"{shortened(item.name)} is of class {label}, expected 0 to {self.count - 1}: the model has "
                f"{self.count} classes."
            )
        return label


def classes_of(count: int | None, labels: Sequence[str] | None, folders: Iterable[str] | None = None) -> Classes:
    """The classes of a model with `count` of them that are called `labels`, or like `folders` in alphabetical order.

    Raises:
        InputError: there are more or fewer folders than classes.
    """
    if folders is None:
        return Classes(count, named_classes(labels or [str(number) for number in range(count or 0)]))
    found = sorted(set(folders))
    if len(found) != count:
        raise InputError(
            f"The data set has {len(found)} folders, the model {count or 'no'} classes: expected one folder for each "
            "class."
        )
    return Classes(count, {name: number for number, name in enumerate(found)})
