"""Every container of weights: what is read back, what is refused, and that hostile bytes neither crash nor grow."""

import contextlib
import json
import os
import pickle
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import psutil
import pytest
from helpers.originals import ORIGINALS
from PIL import Image
from safetensors.numpy import save_file

from vit_export.base.errors import InputError
from vit_export.base.json_file import MAX_JSON
from vit_export.base.zip_file import MAX_MEMBERS
from vit_export.weights.containers import hdf5_listing
from vit_export.weights.containers.contents import Contents, identify
from vit_export.weights.containers.hdf5 import open_keras_archive, open_weights_h5
from vit_export.weights.containers.npz import open_npz
from vit_export.weights.containers.safetensors_file import open_safetensors, open_sharded
from vit_export.weights.containers.tensors import LOADABLE, StoredTensor
from vit_export.weights.open import open_checkpoint

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STACK = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4) / 7 - 1
UNLOADABLE = {"int64": np.arange(3), "bool": np.array([True, False]), "uint8": np.arange(3, dtype=np.uint8)}


def stored_as(dtype: str) -> np.ndarray:
    return STACK.astype(BFLOAT16 if dtype == "bfloat16" else dtype)


def all_types() -> dict[str, np.ndarray]:
    """A stack, a scalar and an empty array of every loadable type, and some of types that are only listed."""
    loadable = {f"{d}/{n}": f(stored_as(d)) for d in LOADABLE for n, f in SHAPES.items()}
    return loadable | {f"other/{name}": values for name, values in UNLOADABLE.items()}


SHAPES = {
    "stack": lambda v: v,
    "scalar": lambda v: v[0, 0, 1].reshape(()),
    "empty": lambda v: np.ascontiguousarray(v[:, :0]),
}


def write_npz(path: Path, arrays: dict[str, np.ndarray], *, deflate: bool = False) -> Path:
    # As big_vision does: np.savez alone would write ml_dtypes' bfloat16 as such a 2-byte void too.
    voids = {k: v.view("V2") if v.dtype == BFLOAT16 else v for k, v in arrays.items()}
    (np.savez_compressed if deflate else np.savez)(path, **voids)
    return path


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    save_file({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in arrays.items()}, path, metadata={"format": "np"})
    return path


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values
    return path


def write_keras(path: Path, h5: bytes, config: object = None, *, deflate: bool = False) -> Path:
    text = config if isinstance(config, str) else json.dumps(config or {"class_name": "Lambda", "config": {"f": "…"}})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", h5)
    return path


def write_sharded(folder: Path, shards: dict[str, dict[str, np.ndarray]], **changes: str) -> Path:
    for name, arrays in shards.items():
        write_safetensors(folder / name, arrays)
    weight_map = {key: name for name, arrays in shards.items() for key in arrays} | changes
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def keras_weights(path: Path):
    return open_keras_archive(path)[0]


def as_container(kind: str, folder: Path, arrays: dict[str, np.ndarray]):
    """`arrays` written as `kind`, opened."""
    if kind in ("npz", "npz deflated"):
        return open_npz(write_npz(folder / "a.npz", arrays, deflate=kind != "npz"))
    if kind == "safetensors":
        return open_safetensors(write_safetensors(folder / "a.safetensors", arrays))
    if kind == "sharded":
        half = len(arrays) // 2
        parts = [dict(list(arrays.items())[:half]), dict(list(arrays.items())[half:])]
        return open_sharded(write_sharded(folder, {f"model-{i}.safetensors": part for i, part in enumerate(parts)}))
    h5 = write_h5(folder / "a.weights.h5", arrays)
    if kind == "h5":
        return open_weights_h5(h5)
    return keras_weights(write_keras(folder / "a.keras", h5.read_bytes(), deflate=kind != "keras"))


CONTAINERS = ("npz", "npz deflated", "safetensors", "sharded", "h5", "keras", "keras deflated")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_type_shape_and_entry_comes_back(kind, tmp_path):
    arrays = all_types()
    file = as_container(kind, tmp_path, arrays)
    dtypes = {key: "bfloat16" if v.dtype == BFLOAT16 else v.dtype.name for key, v in arrays.items()}
    assert dict(file.tensors) == {key: StoredTensor(v.shape, dtypes[key]) for key, v in arrays.items()}
    for key, values in arrays.items():
        if key.startswith("other"):
            with pytest.raises(InputError, match="expected float16, bfloat16, float32 or float64"):
                file.read(key)
            continue
        read = file.read(key)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, values.astype(np.float32))
    for dtype in LOADABLE:
        for index in (1, 0):  # descending, for which the stream of a zip's member starts again
            entry = file.read(f"{dtype}/stack", index)
            np.testing.assert_array_equal(entry, stored_as(dtype)[index].astype(np.float32))
        assert file.read(f"{dtype}/empty", 1).shape == (0, 4)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_is_not_there_is_refused(kind, tmp_path):
    file = as_container(kind, tmp_path, {"a": STACK, "s": np.float32(1).reshape(()), "t": STACK})
    with pytest.raises(InputError, match="holds no tensor 'b': it has a, s, t"):
        file.read("b")
    for key, index, entries in (("a", 2, 2), ("a", -1, 2), ("s", 0, 0)):
        with pytest.raises(
            InputError, match=f"'{key}' has {entries} entries along its first axis, none is number {index}"
        ):
            file.read(key, index)


def test_other_memory_orders_of_npz(tmp_path):
    arrays = {
        "fortran": np.asfortranarray(STACK.astype(np.float32)),
        "strided": STACK.astype(np.float32)[:, ::2],
        "big_endian": STACK.astype(">f4"),
        "big_endian_half": STACK.astype(">f2"),
    }
    file = open_npz(write_npz(tmp_path / "a.npz", arrays))
    for key, values in arrays.items():
        np.testing.assert_array_equal(file.read(key), values.astype(np.float32))
        np.testing.assert_array_equal(file.read(key, 1), values[1].astype(np.float32))


def test_doubles_beyond_float32_become_infinite_without_a_warning(tmp_path):
    file = open_npz(write_npz(tmp_path / "a.npz", {"a": np.array([1e300, 1.0])}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert file.read("a").tolist() == [np.inf, 1.0]


def npy(descr: str = "<f4", shape: str = "(2, 3)", values: bytes = b"\0" * 24, version: bytes = b"\x01\x00") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(header)) + header + values


def zip_of(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice is what one test is about
        for name, content in members:
            archive.writestr(name, content)
    return path


def changed(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    content = path.read_bytes()
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    return path


def encrypted(path: Path) -> Path:
    content = bytearray(zip_of(path, [("a.npy", npy())]).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


def bomb(path: Path) -> None:
    """A zip that says its one member has 300 MB."""
    content = bytearray(zip_of(path, [("a.npy", npy())], zipfile.ZIP_DEFLATED).read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, 300 << 20)
    path.write_bytes(content)


HOSTILE_NPZ = {
    "is damaged or truncated .*File is not a zip file": lambda p: p.write_bytes(
        zip_of(p, [("a.npy", npy())]).read_bytes()[:-30]
    ),
    "the array 'a' is a pickle of Python objects": lambda p: np.savez(p, a=np.array([{}, None], object)),
    "damaged .*'a' says .2, 4. of float32, 160 bytes": lambda p: zip_of(p, [("a.npy", npy(shape="(2, 4)"))]),
    "damaged .*'a' says .-2, -3. of float32": lambda p: zip_of(p, [("a.npy", npy(shape="(-2, -3)"))]),
    "damaged .*'a' says .1099511627776. of float32": lambda p: zip_of(p, [("a.npy", npy(shape=f"({2**40},)"))]),
    "damaged .*Header does not contain": lambda p: zip_of(p, [("a.npy", npy().replace(b"shape", b"shale"))]),
    "damaged .*not a valid dtype": lambda p: zip_of(p, [("a.npy", npy(descr="<z4"))]),
    "damaged .*magic string": lambda p: zip_of(p, [("a.npy", b"not an array at all")]),
    "damaged .*expected 1.0 or 2.0": lambda p: zip_of(p, [("a.npy", npy(version=b"\x03\x00"))]),
    "damaged .*array header": lambda p: zip_of(p, [("a.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 20_000)]),
    "damaged .*two members are called 'a.npy'": lambda p: zip_of(p, [("a.npy", npy()), ("a.npy", npy())]),
    r"no .npy arrays \(b.txt, c.npy.py\)": lambda p: zip_of(p, [("a.npy", npy()), ("b.txt", b""), ("c.npy.py", b"")]),
    "is encrypted .*without a password": encrypted,
    "compressed by method 14, expected stored or deflated": lambda p: zip_of(p, [("a.npy", npy())], zipfile.ZIP_LZMA),
    "it looks like a zip bomb": bomb,
    f"has {MAX_MEMBERS + 1} members": lambda p: many_members(p, MAX_MEMBERS + 1),
    f"far more than {MAX_MEMBERS} members": lambda p: many_members(p, 330_000),
    "damaged .*size of 'a.npy' is impossible": lambda p: changed(
        zip_of(p, [("a.npy", npy())]), (struct.pack("<II", 152, 152), struct.pack("<II", 152, 151))
    ),
    "damaged .*its members overlap": lambda p: overlapping(p, 60),
}


def many_members(path: Path, count: int) -> None:
    """A zip of `count` empty members: only their list, each entry of it pointing at the start."""
    entries = b"".join(
        b"PK\x01\x02" + struct.pack("<6H3I5H2I", *[0] * 9, 6, *[0] * 6) + b"%06x" % i for i in range(count)
    )
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(entries), 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(entries), 1)
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(entries + end64 + locator + end)


def overlapping(path: Path, count: int) -> None:
    """One member that the zip lists `count` times, under different names."""
    content = zip_of(path, [("a00.npy", npy(values=bytes(10_000), shape="(2500,)"))]).read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entries = b"".join(content[start:end].replace(b"a00", b"a%02d" % i) for i in range(count))
    tail = struct.pack("<4H2IH", 0, 0, count, count, len(entries), start, 0)
    path.write_bytes(content[:start] + entries + b"PK\x05\x06" + tail)


@pytest.mark.parametrize("message", HOSTILE_NPZ)
def test_hostile_npz_is_refused_when_it_is_opened(message, tmp_path):
    HOSTILE_NPZ[message](tmp_path / "a.npz")
    with pytest.raises(InputError, match=message):
        open_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("index", [None, 0])
def test_values_that_differ_from_their_checksum_are_refused(index, tmp_path):
    values = np.arange(10_000, dtype=np.float32).reshape(2, 5000)
    path = changed(write_npz(tmp_path / "a.npz", {"a": values}), (np.float32(9000).tobytes(), b"\1\2\3\4"))
    file = open_npz(path)
    with pytest.raises(InputError, match=r"damaged or truncated .*CRC"):
        file.read("a", index)


def safetensors_bytes(header: object, values: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def tensor(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HOSTILE_SAFETENSORS = {
    "its header claims 4611686018427387904 bytes": safetensors_bytes({}, length=2**62),
    "its header claims 100 bytes, expected at most 2 ": safetensors_bytes({}, length=100),
    "its header claims 538976288": b"    ",
    f"its header claims {MAX_JSON + 1} bytes, expected at most {MAX_JSON}": safetensors_bytes(
        b"{}".ljust(MAX_JSON + 1)
    ),
    "invalid JSON": safetensors_bytes(b"{not json}"),
    "invalid offset for tensor `b`": safetensors_bytes({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)),
    "invalid shape, data type, or offset": safetensors_bytes({"a": tensor(0, 8, [2**40])}, bytes(8)),
    "file not fully covered": safetensors_bytes({"a": tensor(0, 8, [2])}, bytes(7)),
}


@pytest.mark.parametrize("message", HOSTILE_SAFETENSORS)
def test_hostile_safetensors_are_refused_when_opened(message, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(HOSTILE_SAFETENSORS[message])
    with pytest.raises(InputError, match=f"is damaged or truncated .*{message}"):
        open_safetensors(path)


def test_safetensors_of_types_numpy_lacks_are_listed(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes({"a": tensor(0, 4, [4], "F8_E4M3"), "b": tensor(4, 12, [2])}, bytes(12)))
    file = open_safetensors(path)
    assert file.tensors["a"] == StoredTensor((4,), "F8_E4M3")
    assert file.read("b").tolist() == [0, 0]
    with pytest.raises(InputError, match="'a' is stored as F8_E4M3, expected float16"):
        file.read("a")


def test_a_safetensors_file_that_changes_after_it_was_opened_is_refused(tmp_path):
    file = open_safetensors(write_safetensors(tmp_path / "a.safetensors", {"a": STACK}))
    write_safetensors(tmp_path / "a.safetensors", {"a": STACK[:1]})
    with pytest.raises(InputError, match="'a' has changed since"):
        file.read("a")


def test_metadata_of_safetensors_is_known(tmp_path):
    assert open_safetensors(write_safetensors(tmp_path / "a", {"a": STACK})).metadata == {"format": "np"}
    assert open_sharded(write_sharded(tmp_path, {"b": {"b": STACK}})).metadata == {"format": "np"}
    save_file({"a": STACK}, tmp_path / "c")
    assert open_safetensors(tmp_path / "c").metadata == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "../b.safetensors"}, "names the shard '../b.safetensors', expected the name of a file beside it"),
        ({"x": "/b.safetensors"}, "names the shard '/b.safetensors', expected"),
        ({"x": "..\\b"}, "expected the name of a file beside it"),
        ({"x": ".."}, "names the shard '..', expected"),
        ({"x": ""}, "names the shard '', expected"),
        ({"x": "c.safetensors"}, "needs the shard c.safetensors, which is not beside it"),
        ({"x": "b.safetensors"}, "b.safetensors lacks tensors that model.safetensors.index.json says it has .x."),
        ({"x": 3}, "has no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(changes, message, tmp_path):
    index = write_sharded(tmp_path, {"b.safetensors": {"b": STACK}}, **changes)
    with pytest.raises(InputError, match=message):
        open_sharded(index)


def test_a_shard_with_more_than_the_index_says_is_refused(tmp_path):
    index = write_sharded(tmp_path, {"b.safetensors": {"b": STACK}})
    write_safetensors(tmp_path / "b.safetensors", {"b": STACK, "c": STACK})
    with pytest.raises(InputError, match=r"does not place there \(c\)"):
        open_sharded(index)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ("[1]", "its JSON is no object"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "has the key 'a' twice"),
        ("{", "damaged or truncated"),
        ("[" * 100_000, "damaged or truncated"),
        (" " * (MAX_JSON + 1), f"more than {MAX_JSON} bytes"),
    ],
)
def test_a_broken_index_is_refused(text, message, tmp_path):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(InputError, match=message):
        open_sharded(tmp_path / "index.json")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("w", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", (4,))
    file.create_virtual_dataset("w", layout)


def soft(file: h5py.File) -> None:
    file["w"] = h5py.SoftLink("/elsewhere")


def external(file: h5py.File) -> None:
    file["g/w"] = h5py.ExternalLink("other.h5", "w")


def cycle(file: h5py.File) -> None:
    file.create_group("g/h")
    file["g/h/again"] = file["g"]


def twice(file: h5py.File) -> None:
    file["w"] = np.zeros(3, np.float32)
    file["v"] = file["w"]


def never_written(file: h5py.File) -> None:
    file.create_dataset("w", (2**40,), "f4")


def odd_float(file: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    h5py.h5d.create(file.id, b"w", kind, h5py.h5s.create_simple((3,)))


HOSTILE_H5 = {
    "'w' lies in other files": external_storage,
    "'w' lies in other files, expected": virtual,
    "'w' is a link to another place or file": soft,
    "'g/w' is a link to another place or file": external,
    "'g/h/again' is in the file under two names": cycle,
    "'[vw]' is in the file under two names": twice,
    "'w' is stored in chunks": lambda f: f.create_dataset("w", data=np.zeros(300), compression="gzip"),
    "'w' has no values": lambda f: f.create_dataset("w", data=h5py.Empty("f4")),
    "'w' says it has 4398046511104 bytes, but there are 0": never_written,
    "nested deeper than": lambda f: f.create_group("/".join("a" * 100)),
    "is a legacy Keras .h5 file": lambda f: f.attrs.__setitem__("layer_names", [b"dense"]),
    "is a legacy Keras .h5 file, expected": lambda f: f.attrs.__setitem__("model_config", "{}"),
}


@pytest.mark.parametrize("message", HOSTILE_H5)
def test_hostile_hdf5_is_refused_when_opened(message, tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        HOSTILE_H5[message](file)
    with pytest.raises(InputError, match=message):
        open_weights_h5(path)
    write_keras(tmp_path / "a.keras", path.read_bytes())
    with pytest.raises(InputError, match=message):
        open_keras_archive(tmp_path / "a.keras")


def test_hdf5_types_that_are_no_weights_are_listed(tmp_path):
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        odd_float(file)
        file["text"] = "abc"
    file = open_weights_h5(path)
    assert file.tensors["w"].dtype == "float of an unusual format (32 bits)"
    for key in ("w", "text"):
        with pytest.raises(InputError, match="expected float16"):
            file.read(key)


def endless(tree: bytearray, place: int) -> None:
    """Its own right neighbour: the list of a group's entries has no end."""
    struct.pack_into("<Q", tree, place + 16, place)


def bottomless(tree: bytearray, place: int) -> None:
    """Its own child, one level down."""
    struct.pack_into("<B", tree, place + 5, 1)
    struct.pack_into("<Q", tree, place + 32, place)


def far_down(tree: bytearray, place: int) -> None:
    """Its own child, 255 levels down."""
    struct.pack_into("<B", tree, place + 5, 255)
    struct.pack_into("<Q", tree, place + 32, place)


def broken_tree(folder: Path, harm, container: str = "h5") -> Path:
    """A file of Keras weights whose first B-tree is harmed."""
    content = bytearray(write_h5(folder / "a.weights.h5", {"a": STACK, "b": STACK}).read_bytes())
    harm(content, content.index(b"TREE"))
    if container == "h5":
        (folder / "a.weights.h5").write_bytes(content)
        return folder / "a.weights.h5"
    return write_keras(folder / "a.keras", bytes(content), deflate=container != "keras")


@pytest.mark.parametrize(
    ("harm", "container"),
    [(endless, "h5"), (bottomless, "h5"), (far_down, "h5"), (bottomless, "keras"), (far_down, "keras deflated")],
)
def test_what_crashes_or_holds_libhdf5_is_one_sentence(harm, container, tmp_path, monkeypatch):
    monkeypatch.setattr("vit_export.weights.containers.hdf5.CPU_SECONDS", 1)
    path = broken_tree(tmp_path, harm, container)
    opened = open_weights_h5 if container == "h5" else keras_weights
    with pytest.raises(InputError, match=r"crashes the HDF5 library|without an end|damaged") as refused:
        opened(path)
    assert len(str(refused.value)) < 400
    assert not list(tmp_path.glob("core*"))


@pytest.mark.thorough
def test_an_interrupt_is_heard_while_libhdf5_goes_round(tmp_path):
    script = """
        import sys, time
        from pathlib import Path
        from vit_export.weights.containers.hdf5 import open_weights_h5
        print("ready", flush=True)
        try:
            open_weights_h5(Path(sys.argv[1]))
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(broken_tree(tmp_path, endless))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20)[0] == "interrupted\n"
    left = [other for other in psutil.process_iter(["status"]) if os.getpgid(other.pid) == child.pid]
    assert all(other.info["status"] == psutil.STATUS_ZOMBIE for other in left)


def test_what_the_child_says_is_held_to_the_file(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "a.weights.h5", {"a": STACK.astype(np.float32)})
    size = path.stat().st_size
    for wrong in (
        {"a": [[2], "float32", "<f4", size - 4]},
        {"a": [[2], "float32", "<f4", -8]},
        {"a": [[-1, -1], "float32", "<f4", 0]},
        {"a": [[2], "float32", "O", 0]},
        {"a": [[2], "float32"]},
        {"a": [[2**62, 2**62], "float64", "<f8", 0]},
    ):
        monkeypatch.setattr("vit_export.weights.containers.hdf5._answer", lambda *_, wrong=wrong: {"tensors": wrong})
        with pytest.raises(InputError, match="is damaged or truncated"):
            open_weights_h5(path)


def test_truncated_hdf5_is_refused(tmp_path):
    path = write_h5(tmp_path / "a.weights.h5", {"a": STACK})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="is damaged or truncated"):
        open_weights_h5(path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "damaged or truncated"),
        ("[]", "its JSON is no object"),
        (" " * (MAX_JSON + 1), f"more than {MAX_JSON} bytes"),
    ],
)
def test_a_keras_archive_with_a_broken_config_is_refused(config, message, tmp_path):
    h5 = write_h5(tmp_path / "a.weights.h5", {"a": STACK}).read_bytes()
    path = write_keras(tmp_path / "a.keras", h5, config, deflate=True)
    with pytest.raises(InputError, match=message):
        open_keras_archive(path)


def test_the_config_of_a_keras_archive_is_only_json(tmp_path):
    config = {"module": "os", "class_name": "system", "config": {"command": "exit 1"}}
    path = write_keras(tmp_path / "a.keras", write_h5(tmp_path / "a.h5", {"a": STACK}).read_bytes(), config)
    assert open_keras_archive(path)[1] == config


def test_damaged_and_missing_weights_of_a_keras_archive_are_refused(tmp_path):
    path = zip_of(tmp_path / "a.keras", [("config.json", b"{}")])
    with pytest.raises(InputError, match=r"no Keras 3 archive, it lacks model.weights.h5"):
        open_keras_archive(path)
    h5 = write_h5(tmp_path / "a.weights.h5", {"a": STACK}).read_bytes()
    changed(write_keras(path, h5), (STACK[1].tobytes(), bytes(96)))
    with pytest.raises(InputError, match=r"damaged or truncated .*CRC"):
        open_keras_archive(path)


def test_unpacked_keras_weights_leave_no_file_behind(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    file = as_container("keras deflated", tmp_path, {"a": STACK})
    assert file.read("a").shape == STACK.shape
    assert os.listdir(tmp_path / "temporary") == []


def test_what_keras_itself_writes_is_read(model, tmp_path):
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    archive, config = open_keras_archive(tmp_path / "m.keras")
    weights = open_weights_h5(tmp_path / "m.weights.h5")
    assert config["registered_name"] == "vit_export>VisionTransformer"
    assert identify(tmp_path / "m.keras").kind == "keras"
    assert identify(tmp_path / "m.weights.h5").kind == "weights_h5"
    assert dict(archive.tensors) == dict(weights.tensors)
    assert len(weights.tensors) == len(model.weights)
    parameters = model.parameters()
    for key, name in (
        ("embedding/vars/1", "position_embedding"),
        (
            "encoder_layers/encoder_layer_2/attention/output_projection/vars/0",
            "encoder/layer_2/attention/output/kernel",
        ),
        ("layers/layer_normalization/vars/0", "encoder/norm/scale"),
        ("head/vars/1", "head/bias"),
    ):
        for file in (archive, weights):
            np.testing.assert_array_equal(file.read(key), parameters[name].numpy())


def test_bfloat16_as_keras_writes_it_is_read(spec, tmp_path):
    from vit_export.model.keras_model import build_model

    model = build_model(spec, dtype="bfloat16")
    model.save_weights(tmp_path / "m.weights.h5")
    file = open_weights_h5(tmp_path / "m.weights.h5")
    assert file.tensors["embedding/vars/1"].dtype == "bfloat16"
    position = np.asarray(model.parameters()["position_embedding"].numpy(), np.float32)
    np.testing.assert_array_equal(file.read("embedding/vars/1"), position)


def torch_zip(path: Path) -> None:
    zip_of(path, [("archive/data.pkl", b"\x80\x02."), ("archive/data/0", bytes(8))])


def flax(path: Path) -> None:
    path.write_bytes(b"\x82\xa6params\x81\xa4head\x81\xa4bias\xc7\x04\x01abcd")


def image(format: str):
    return lambda path: Image.new("RGB", (8, 8)).save(path, format)


REFUSED_FILES = {
    "is a pickle, which can run any code when it is opened: convert it to safetensors where you trust it": torch_zip,
    "is a pickle, which": lambda p: p.write_bytes(pickle.dumps({"a": STACK}, protocol=4)),
    "is a single .npy array": lambda p: p.write_bytes(npy()),
    "is flax msgpack": flax,
    "is a TensorFlow checkpoint": lambda p: p.write_text('model_checkpoint_path: "vit"'),
    "is a TensorFlow checkpoint, expected": lambda p: p.write_bytes(bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"),
    "is a .tflite file, an exported model, not a checkpoint": lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(20)),
    "is an .onnx file, an exported model": lambda p: p.write_bytes(b"\x08\x0a\x12\x06tf2onnx" + bytes(9)),
    "graph of a SavedModel without its variables": lambda p: p.write_bytes(b"\x08\x01\x12\x20" + bytes(9)),
    "is an image": image("JPEG"),
    "is an image, expected": image("PNG"),
    "is an image, expected weights": image("WEBP"),
    "is an image, expected weights:": image("BMP"),
    "is empty": lambda p: p.write_bytes(b""),
    "There is no ": lambda p: None,
    "is a device or a pipe": os.mkfifo,
    "is compressed: unpack it": lambda p: p.write_bytes(b"\x1f\x8b" + bytes(30)),
    "is a tar archive": lambda p: p.write_bytes(bytes(257) + b"ustar\x0000" + bytes(300)),
    "is a Git LFS pointer": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00"),
    "is a web page": lambda p: p.write_text("<!DOCTYPE html><html>"),
    "is no file of weights": lambda p: p.write_text("hello"),
    "is a zip that holds a.txt, expected": lambda p: zip_of(p, [("a.txt", b"")]),
    "is a zip that holds nothing": lambda p: zip_of(p, []),
    "is damaged or truncated": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(30)),
    "JSON file without a weight_map": lambda p: p.write_text('{"architectures": []}'),
    "index of files each of which is a pickle": lambda p: p.write_text('{"weight_map": {"a": "pytorch-1.bin"}}'),
    "index of Keras weights in several files": lambda p: p.write_text('{"weight_map": {"/a": ["b_0.weights.h5"]}}'),
}


@pytest.mark.parametrize("message", REFUSED_FILES)
def test_what_is_no_checkpoint_is_named_whatever_its_name(message, tmp_path):
    path = tmp_path / "model.safetensors"
    REFUSED_FILES[message](path)
    with pytest.raises(InputError, match=message) as refusal:
        identify(path)
    assert str(refusal.value).count("\n") == 0


@pytest.mark.parametrize("open_file", [open_npz, open_safetensors, open_sharded, open_weights_h5, open_keras_archive])
def test_openers_refuse_what_is_no_file(open_file, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for path, message in (
        (tmp_path / "pipe", "is a device or a pipe"),
        (Path("/dev/zero"), "is a device or a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "missing", "There is no"),
        (tmp_path / "empty" / "below", "There is no"),
        (tmp_path / "empty", "is empty"),
        (Path("a\0b"), "There is no"),
    ):
        with pytest.raises(InputError, match=message):
            open_file(path)


def test_parts_of_a_tensorflow_checkpoint_are_named(tmp_path):
    (tmp_path / "vit.index").write_bytes(bytes(8))
    (tmp_path / "vit.data-00000-of-00001").write_bytes(bytes(8))
    for name in ("vit", "vit.data-00000-of-00001", "."):
        with pytest.raises(InputError, match="a TensorFlow checkpoint"):
            identify(tmp_path / name)


def test_files_are_known_by_content(tmp_path):
    arrays = {"a": STACK}
    h5 = write_h5(tmp_path / "1", arrays)
    write_npz(tmp_path / "2.npz", arrays)
    found = {
        "weights_h5": h5,
        "npz": (tmp_path / "2.npz").rename(tmp_path / "2"),
        "safetensors": write_safetensors(tmp_path / "3", arrays),
        "keras": write_keras(tmp_path / "4", h5.read_bytes()),
        "safetensors_index": write_sharded(tmp_path, {"b": arrays}),
    }
    for kind, path in found.items():
        assert identify(path) == Contents(kind, path)


def test_folders_lead_to_their_file(tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    assert identify(tmp_path / "saved") == Contents("saved_model", tmp_path / "saved")

    one = tmp_path / "one"
    one.mkdir()
    weights = write_safetensors(one / "vit.safetensors", {"a": STACK})
    assert identify(one) == Contents("safetensors", weights)
    model = write_safetensors(one / "model.safetensors", {"a": STACK})
    assert identify(one) == Contents("safetensors", model)

    shards = tmp_path / "shards"
    shards.mkdir()
    index = write_sharded(shards, {"model-1.safetensors": {"a": STACK}, "model-2.safetensors": {"b": STACK}})
    assert identify(shards) == Contents("safetensors_index", index)


def test_the_folder_of_an_export_leads_to_its_saved_model(tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    (tmp_path / "vit_float32.tflite").write_bytes(b"x")
    assert identify(tmp_path) == Contents("saved_model", tmp_path / "saved_model")
    write_safetensors(tmp_path / "model.safetensors", {"a": STACK})
    with pytest.raises(InputError, match=r"several sets of weights \(model.safetensors, saved_model\).*/saved_model,"):
        identify(tmp_path)


def test_an_index_with_a_byte_order_mark(tmp_path):
    index = write_sharded(tmp_path, {"model-1.safetensors": {"a": STACK}})
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert identify(index) == Contents("safetensors_index", index)
    np.testing.assert_array_equal(open_sharded(index).read("a"), STACK.astype(np.float32))


def test_paths_that_cannot_be_looked_at(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"cannot be read .File name too long."):
        identify(tmp_path / ("x" * 300))
    folder = tmp_path / "closed"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", {"a": STACK})

    def denied(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("vit_export.weights.containers.safetensors_file.os.stat", denied)
    with pytest.raises(InputError, match=r"cannot be read .Permission denied.: check the path and its permissions"):
        identify(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], r"pytorch_model.bin, all the weights in this folder, is a pickle"),
        (["flax_model.msgpack"], "is flax msgpack"),
        (["checkpoint"], "holds a TensorFlow checkpoint"),
        ([], r"\(it holds nothing\): give the folder"),
        (["a", "b", "c", "d", "e", "f", "g"], r"without saved_model.pb.*\(it holds a, b, c, d, e and 2 more\)"),
        (["a.safetensors", "b.safetensors"], r"several sets of weights \(a.safetensors, b.safetensors\)"),
        (["model.safetensors", "model.safetensors.index.json"], "several sets of weights"),
    ],
)
def test_folders_without_one_set_of_weights_are_refused(names, message, tmp_path):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message):
        identify(tmp_path)


def test_one_entry_of_a_stack_is_read_without_the_others(tmp_path):
    arrays = {"a": np.zeros((16, 1 << 19), np.float32)}  # 2 MB an entry, 32 MB
    for kind in ("npz", "npz deflated", "safetensors", "h5", "keras"):
        file = as_container(kind, tmp_path, arrays)
        file.read("a", 0)
        tracemalloc.start()
        for index in range(3):
            file.read("a", index)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 << 20, kind


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_conversion_needs_little_more_than_the_result(dtype, tmp_path):
    values = np.zeros((64, 1 << 17), BFLOAT16 if dtype == "bfloat16" else dtype)  # 32 MB as float32
    for kind in ("npz", "safetensors", "h5"):
        file = as_container(kind, tmp_path, {"a": values})
        tracemalloc.start()
        assert file.read("a").nbytes == 32 << 20
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 52 << 20, kind


def test_lies_about_sizes_are_refused_within_bounded_memory(tmp_path):
    bomb(tmp_path / "bomb.npz")
    zip_of(tmp_path / "shape.npz", [("a.npy", npy(shape=f"({2**30},)"))])
    header = b"\x93NUMPY\x02\x00\xff\xff\xff\x0e".ljust(120 << 20)
    zip_of(tmp_path / "header.npz", [("a.npy", header)], zipfile.ZIP_DEFLATED)
    many_members(tmp_path / "many.npz", 330_000)
    (tmp_path / "length.safetensors").write_bytes(safetensors_bytes({}, length=2**33))
    (tmp_path / "shape.safetensors").write_bytes(safetensors_bytes({"a": tensor(0, 2**33, [2**31])}, bytes(8)))
    with h5py.File(tmp_path / "shape.weights.h5", "w") as file:
        file.create_dataset("w", (2**31,), "f4")
    script = """
        import resource, sys
        from pathlib import Path
        from vit_export.base.errors import InputError
        from vit_export.weights.containers.hdf5 import open_weights_h5
        from vit_export.weights.containers.npz import open_npz
        from vit_export.weights.containers.safetensors_file import open_safetensors
        import h5py, safetensors
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), -1))
        for path in map(Path, sys.argv[1:]):
            opener = {".npz": open_npz, ".h5": open_weights_h5}.get(path.suffix, open_safetensors)
            try:
                file = opener(path)
                for key in file.tensors:
                    file.read(key)
            except InputError as error:
                print(path.name, error)
    """
    paths = sorted(p for p in tmp_path.iterdir())
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [path.name for path in paths]
    assert not [line for line in lines if "MemoryError" in line or "allocate" in line]


SMALL = {f"layer_{i}/vars/{i % 2}": STACK.astype(np.float32 if i % 2 else np.float16) for i in range(4)}


def listed_here(path, file, start, size):
    """What the child would say, without starting one."""
    try:
        return json.loads(json.dumps(hdf5_listing.listing(hdf5_listing.Window(file, start, size))))
    except Exception as error:
        return {"damaged": str(error)}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_random_damage_is_refused_or_harmless(kind, tmp_path, monkeypatch):
    # A hundred children would take a while; this damage crashes nothing.
    monkeypatch.setattr("vit_export.weights.containers.hdf5._answer", listed_here)
    as_container(kind, tmp_path, SMALL)
    open_file, name = {
        "npz": (open_npz, "a.npz"),
        "safetensors": (open_safetensors, "a.safetensors"),
        "sharded": (open_sharded, "model.safetensors.index.json"),
        "h5": (open_weights_h5, "a.weights.h5"),
        "keras": (keras_weights, "a.keras"),
    }[kind.split()[0]]
    path = tmp_path / name
    original = path.read_bytes()
    chance = random.Random(kind)
    refused = 0
    for round in range(120):
        content = bytearray(original)
        if round % 4 == 0:
            del content[chance.randrange(len(content)) :]
        else:
            for _ in range(chance.choice((1, 1, 4, 64))):
                place = chance.randrange(len(content) if round % 2 else min(600, len(content)))
                content[place] = chance.choice(
                    (0, 255, chance.randrange(256), content[place] ^ 1 << chance.randrange(8))
                )
        path.write_bytes(content)
        try:
            identify(path)
            file = open_file(path)
        except InputError:
            refused += 1
            continue
        for key, stored in file.tensors.items():
            with contextlib.suppress(InputError):
                values = file.read(key)
                assert values.dtype == np.float32
                assert values.shape == stored.shape
    assert refused >= 30  # every truncation, at least


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = write_npz(tmp_path / "a.npz", SMALL)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile.ZipFile, "__init__", denied)
    with pytest.raises(InputError, match=r"cannot be read \(permission denied\)"):
        open_npz(path)


def test_a_name_twice_in_a_safetensors_header_is_refused(tmp_path):
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F32", "shape": [1], '
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(header + b'"data_offsets": [0, 4]}}', bytes(4)))
    with pytest.raises(InputError, match="it has the key 'a' twice"):
        open_safetensors(path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_config_that_is_no_file_is_not_absent(name, kind, alone, tmp_path):
    folder = shutil.copytree(ORIGINALS / "hf", tmp_path / "hf")
    path = folder / name
    path.unlink()
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero")}[kind]()
    with pytest.raises(InputError, match=f"{name} cannot be read as JSON"):
        open_checkpoint(folder / "model.safetensors" if alone else folder)


def test_a_shard_whose_name_is_too_long_is_missing(tmp_path):
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": "a" * 5000}}))
    with pytest.raises(InputError, match="which is not beside it"):
        open_sharded(tmp_path / "index.json")
