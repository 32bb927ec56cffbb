"""Models of every switch that Keras saved: what is read of the `.keras` file is the model, parameter by parameter."""

import numpy as np
import pytest
from helpers.switches import SWITCHES, model_of, spec_of

from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.weights.open import open_checkpoint


@pytest.mark.thorough
@pytest.mark.parametrize("name", SWITCHES)
def test_a_keras_file_of_every_switch_is_read(name, tmp_path):
    import_tensorflow()
    model = model_of(name)
    model.save(tmp_path / "saved.keras")
    opened = open_checkpoint(tmp_path / "saved.keras")
    assert opened.spec == spec_of(name)
    for parameter, variable in model.parameters().items():
        np.testing.assert_array_equal(opened.read(parameter), variable.numpy(), parameter)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["registers", "clip", "siglip", "distilled", "rotary"])
def test_numbers_alone_of_another_architecture_are_refused(name, tmp_path):
    """A .weights.h5 file does not say which switches there are: only the paper's model is read from one."""
    import_tensorflow()
    model_of(name).save_weights(tmp_path / "saved.weights.h5")
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / "saved.weights.h5", num_heads=2)
