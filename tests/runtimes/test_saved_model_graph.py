"""A SavedModel is a program: what is loaded is arithmetic, and every other way to run something is refused."""

import shutil

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec
from helpers.programs import IMAGES, edited, module_of, save

from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.model.saved_model import write_saved_model
from vit_export.runtimes.runner import open_runner
from vit_export.runtimes.saved_model_graph import NUMERIC, SAVING, require_numeric

import_tensorflow()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    import tensorflow as tf

    module = module_of(lambda images: module.weight.assign_add(1.0), weight=tf.Variable(2.0))
    return save(module, tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "model")


@pytest.mark.parametrize("changes", [{}, {"num_classes": None}, {"pre_logits_size": 16, "gelu": "tanh"}])
def test_our_own_are_arithmetic(changes, tmp_path):
    spec = toy_spec(**changes).with_(num_layers=1)
    write_saved_model(build(RandomParameters(spec)), tmp_path / "own", record_of(spec))
    require_numeric(tmp_path / "own")


def test_another_tools_arithmetic_runs(plain):
    np.testing.assert_allclose(open_runner(plain, "saved_model").run(IMAGES), IMAGES.mean((1, 2)), rtol=1e-5)


@pytest.mark.thorough
def test_what_keras_exports_is_arithmetic(tmp_path):
    import keras

    layers = keras.layers
    image = x = keras.Input((16, 16, 3))
    for layer in (
        layers.Rescaling(1 / 127.5, -1),
        layers.Resizing(12, 12),
        layers.Conv2D(8, 3, activation="gelu"),
        layers.BatchNormalization(),
        layers.DepthwiseConv2D(3, activation="silu"),
        layers.MaxPooling2D(),
        layers.UpSampling2D(),
        layers.Dropout(0.1),
        layers.Reshape((-1, 8)),
    ):
        x = layer(x)
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)))
    model.export(tmp_path / "keras", verbose=False)
    require_numeric(tmp_path / "keras")


def programs(mark):
    """What a graph may do besides computing, by the operator that is named."""
    import tensorflow as tf

    one = tf.constant(1)
    return {
        "WriteFile": lambda images: tf.io.write_file(mark, "x"),
        "ReadFile": lambda images: tf.io.read_file("/etc/hostname"),
        "MatchingFiles": lambda images: tf.io.matching_files("/*"),
        "EagerPyFunc": lambda images: tf.py_function(lambda: 1, [], tf.int32),
        "PrintV2": lambda images: tf.raw_ops.PrintV2(input="x", output_stream=f"file://{mark}"),
        "SaveV2": lambda images: tf.raw_ops.SaveV2(
            prefix=mark, tensor_names=["x"], shape_and_slices=[""], tensors=[one]
        ),
        "RestoreV2": lambda images: tf.raw_ops.RestoreV2(
            prefix=mark, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.int32]
        )[0],
        "LMDBReader": lambda images: tf.raw_ops.LMDBReader(),
        "TextLineDataset": lambda images: tf.raw_ops.TextLineDataset(
            filenames=[mark], compression_type="", buffer_size=0
        ),
    }


@pytest.mark.parametrize("name", list(programs("")))
@pytest.mark.parametrize("place", ["graph", "branch", "function nobody calls"])
def test_what_is_no_arithmetic_is_named(name, place, tmp_path):
    import tensorflow as tf

    mark = tmp_path / "mark"
    does = programs(str(mark))[name]

    def act():
        with tf.control_dependencies([does(None)]):
            return tf.constant(1)

    if place == "graph":
        module = module_of(does)
    elif place == "branch":
        module = module_of(lambda images: tf.cond(tf.reduce_sum(images) > 1e9, act, lambda: tf.constant(0)))
    else:
        module = module_of(lambda images: None, other=tf.function(act, input_signature=[]))
    save(module, tmp_path / "model")
    with pytest.raises(InputError, match=rf"holds the operator {name}, expected a SavedModel of pure arithmetic"):
        open_runner(tmp_path / "model", "saved_model")
    assert not mark.exists()


def test_tables_and_assets_are_refused_before_they_are_set_up(tmp_path):
    import tensorflow as tf

    (tmp_path / "words.txt").write_text("a\nb\n")
    keys = tf.lookup.TextFileInitializer(
        str(tmp_path / "words.txt"),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    for name, initializer, said in (
        ("values", tf.lookup.KeyValueTensorInitializer(["a"], [1]), "the operator (HashTable|LookupTable)"),
        ("file", keys, "the operator (HashTable|LookupTable|InitializeTable)"),
    ):
        table = tf.lookup.StaticHashTable(initializer, 0)
        save(module_of(lambda images: None, table=table), tmp_path / name)
        with pytest.raises(InputError, match=said):
            open_runner(tmp_path / name, "saved_model")
    # The same without operators that say so: the kind, the name and the saver of an object alone set it up.
    save(module_of(lambda images: None, weight=tf.Variable(1.0)), tmp_path / "plain")

    def resource(meta):
        meta.object_graph_def.nodes.add().resource.SetInParent()

    def asset(meta):
        meta.asset_file_def.add(filename="words.txt")

    def hidden(meta):
        nodes = meta.object_graph_def.nodes
        next(node for node in nodes if node.WhichOneof("kind") == "variable").registered_name = "tf.StaticHashTable"

    def saver(meta):
        meta.object_graph_def.nodes[0].registered_saver = "tf.Any"

    def restored(meta):
        meta.object_graph_def.nodes[0].saveable_objects["x"].restore_function = 1

    for edit, said in (
        (resource, "a resource, such as a table, that is set up when it is loaded"),
        (asset, "files that it reads when it is loaded"),
        (hidden, "restored in a way of its own"),
        (saver, "restored in a way of its own"),
        (restored, "restored in a way of its own"),
    ):
        path = shutil.copytree(tmp_path / "plain", tmp_path / edit.__name__)
        with pytest.raises(InputError, match=said):
            require_numeric(edited(path, lambda model, edit=edit: edit(model.meta_graphs[0])))


def test_the_functions_that_save_are_called_by_nothing_else(plain, tmp_path):
    """They write files, and are allowed because nothing that is run leads to them."""

    def saver_of(model):
        meta = model.meta_graphs[0]
        node = next(n for n in meta.graph_def.node if n.name == meta.saver_def.save_tensor_name.partition(":")[0])
        return meta, node.attr["f"].func.name

    def called(model):
        meta, saver = saver_of(model)
        for function in meta.graph_def.library.function:
            for node in function.node_def:
                if node.op == "StatefulPartitionedCall":
                    node.attr["f"].func.name = saver

    def called_as_an_operator(model):
        meta, saver = saver_of(model)
        meta.graph_def.library.function[0].node_def.add(name="x", op=saver)

    def named_like_an_operator(model):
        meta, saver = saver_of(model)
        for function in meta.graph_def.library.function:
            if function.signature.name == saver:
                function.signature.name = "Identity"
        for node in meta.graph_def.node:
            if node.attr["f"].func.name == saver:
                node.attr["f"].func.name = "Identity"

    def called_from_an_attribute(model):
        meta, saver = saver_of(model)
        node = meta.graph_def.library.function[0].node_def[0]
        node.attr["branches"].list.func.add(name="other").attr["inner"].func.name = saver

    def called_from_the_graph(model):
        meta, saver = saver_of(model)
        meta.graph_def.node.add(name="x", op="PartitionedCall").attr["f"].func.name = saver

    def offered(model):
        meta, saver = saver_of(model)
        meta.object_graph_def.concrete_functions[saver].SetInParent()

    def swapped_in(model):
        for function in model.meta_graphs[0].graph_def.library.function:
            function.attr["api_implements"].s = b"mean"

    def a_gradient(model):
        meta, saver = saver_of(model)
        meta.graph_def.library.gradient.add(function_name="x", gradient_func=saver)

    for edit in (
        called, called_as_an_operator, named_like_an_operator, called_from_an_attribute, called_from_the_graph, offered,
        swapped_in, a_gradient,
    ):  # fmt: skip
        path = edited(shutil.copytree(plain, tmp_path / edit.__name__), edit)
        with pytest.raises(InputError, match="holds the operator (" + "|".join((*SAVING, "__inference.*")) + "), exp"):
            require_numeric(path)


@pytest.mark.parametrize("how", ["two graphs", "no objects"])
def test_what_tensorflow_would_load_as_its_first_version_is_refused(how, copy):
    def edit(model):
        if how == "two graphs":
            model.meta_graphs.add().CopyFrom(model.meta_graphs[0])
        else:
            model.meta_graphs[0].ClearField("object_graph_def")

    with pytest.raises(InputError, match="of TensorFlow 1, or holds several graphs"):
        require_numeric(edited(copy, edit))


def test_a_damaged_graph_is_one_sentence(copy):
    (copy / "saved_model.pb").write_bytes(b"\x0a\xff\xff")
    with pytest.raises(InputError, match="is damaged or cut off"):
        require_numeric(copy)


def test_the_list_holds_operators_of_tensorflow_that_touch_nothing():
    from tensorflow.python.framework import op_def_registry

    assert not [name for name in NUMERIC | SAVING if op_def_registry.get(name) is None]
    suspicious = (
        "File",
        "Read",
        "Write",
        "Save",
        "Restore",
        "PyFunc",
        "Print",
        "Host",
        "Send",
        "Recv",
        "Dataset",
        "Debug",
    )
    assert sorted(name for name in NUMERIC if any(part in name for part in suspicious)) == [
        "DisableCopyOnRead",
        "ReadVariableOp",
    ]
    for name in NUMERIC:  # a variable's handle alone may be a resource, and no text or variant comes in
        definition = op_def_registry.get(name)
        texts = [a.name for a in (*definition.input_arg, *definition.output_arg) if a.type == 7]
        assert not texts, name
