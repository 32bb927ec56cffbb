"""The runtimes as they compute with AVX2 alone, on a processor that has more: AVX-512, VNNI and AMX hidden from them.

A runtime asks the processor by the instruction cpuid. Its libraries are copied, every cpuid in them (found by objdump)
is made an undefined opcode, and real_avx2.c, compiled and preloaded, answers in its place. The code is the very one of
the installed packages, and what it then chooses is what it chooses on a processor with AVX2 alone. Clock, caches and
units are this processor's.

That it works is proven each time. Linux notes when a process was last seen with AVX-512's registers in use
(/proc/PID/arch_status): the runtimes' float32 files must use them in the ordinary environment, and no process that is
measured may. And ONNX Runtime's product of 255 and 127 in two neighbours must saturate 16 bits, as it does only
without VNNI.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.machine import Cpu, cpu, usable_cores
from vit_export.base.python import python_command, python_environment
from vit_export.runtimes.process import RunnerProcess

PACKAGES = ("ai_edge_litert", "onnxruntime", "openvino", "numpy")
"""Those whose libraries look for AVX-512 in a process that runs a file; numpy is there since it would use it too."""

CPUID, UNDEFINED = b"\x0f\xa2", b"\x0f\x0a"
HIDDEN = ("avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
"""What `base.machine.FEATURES` calls what is hidden."""

SHIM = Path(__file__).with_suffix(".c")
"""What answers in place of cpuid."""

_GLIBC = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW"
_SECTION = re.compile(r" +\d+ \S+ +([0-9a-f]+) +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+) .*\bCODE\b")
_FOUND = re.compile(r" *([0-9a-f]+):\t(?:\S+ )*cpuid\b")


class Avx2:
    """The environment in which the installed runtimes see AVX2 and nothing newer, made below `folder`.

    Raises:
        InputError: this is no Linux with AVX-512 VNNI, a tool is missing, or VNNI is not hidden after all.
    """

    def __init__(self, folder: Path) -> None:
        if "avx512_vnni" not in cpu().features or not Path("/proc/self/arch_status").is_file():
            raise InputError(
                "Nothing to hide here, or no way to tell: --avx2 is for Linux 5.3 or newer and AVX-512 VNNI."
            )
        if lacking := [name for name in ("gcc", "objdump", "grep") if not shutil.which(name)]:
            raise InputError(f"--avx2 needs {' and '.join(lacking)}: install them.")
        self._packages = folder / "packages"
        self._originals = overlay(self._packages)
        self._shim = compiled(SHIM, folder)
        self._prove_saturation()

    @property
    def cpu(self) -> Cpu:
        """The processor as it shows itself."""
        known = cpu()
        return replace(known, features=tuple(name for name in known.features if name not in HIDDEN))

    def environment(self, ordinary: dict[str, str]) -> dict[str, str]:
        """`ordinary`, with the copies in front of the packages; glibc's own functions do without AVX-512 as well."""
        path = os.pathsep.join(filter(None, (str(self._packages), ordinary.get("PYTHONPATH"))))
        return {**ordinary, "PYTHONPATH": path, "LD_PRELOAD": str(self._shim), "GLIBC_TUNABLES": _GLIBC}

    def process(self, process: RunnerProcess) -> RunnerProcess:
        """`process`, not started yet, made to start in that environment."""
        launch = process._launch

        def hidden() -> tuple[list[str], dict[str, str]]:
            command, environment = launch()
            return command, self.environment(environment)

        process._launch = hidden  # type: ignore[method-assign]
        return process

    def _prove_saturation(self) -> None:
        """Hold ONNX Runtime's products to what they are without VNNI, and ordinarily with it.

        Raises:
            InputError: they are not.
        """
        command = python_command("-c", "from real_avx2 import print_pair; print_pair()")
        ordinary = python_environment()
        said = [
            subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()
            for environment in (ordinary, self.environment(ordinary))
        ]
        if said != [str(2 * 255 * 127), str(2**15 - 1)]:
            found, hidden = (text or "not told" for text in said)
            raise InputError(f"255·127 + 255·127 is {found} in ONNX Runtime, {hidden} where VNNI should be hidden.")

    def prove_use(self, ordinary: RunnerProcess, image: np.ndarray) -> None:
        """Hold a float32 file, which `ordinary` runs on `image` [s, s, 3], to using AVX-512 where it is not hidden.

        Raises:
            InputError: it does not, so that `check` could not be believed.
        """
        with ordinary:
            began = time.monotonic()
            ordinary.run(image[np.newaxis])
            if not _seen(ordinary, began):
                raise InputError(f"{ordinary.path.name} uses no AVX-512 anyway: that it is hidden cannot be shown.")

    def check(self, process: RunnerProcess, began: float) -> None:
        """Hold `process`, which has worked since `began` (of time.monotonic), to using none of AVX-512's registers.

        Raises:
            InputError: it uses them, or runs a library that still asks the processor.
        """
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        mapped = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/" in line}
        if asking := sorted(mapped & self._originals):
            raise InputError(f"AVX-512 is not hidden from {process.path.name}: {asking[0]} asks the processor itself.")
        if _seen(process, began):
            raise InputError(f"AVX-512 is not hidden from {process.path.name}: Linux saw its registers in use.")


def _seen(process: RunnerProcess, began: float) -> bool:
    """Whether Linux saw a thread of `process` with AVX-512's registers in use since `began`.

    It looks when a thread makes room for another, which all have done that wait for the next request.
    """
    time.sleep(0.05)
    elapsed = [status.read_text().split()[-1] for status in Path(f"/proc/{process.pid}/task").glob("*/arch_status")]
    since = 1000 * (time.monotonic() - began)
    return any(0 <= int(each) < since for each in elapsed)


def overlay(folder: Path) -> frozenset[str]:
    """Copies of the installed `PACKAGES` in `folder`, links but for the libraries that ask; the originals of those."""
    libraries = []
    for name in PACKAGES:
        if (spec := importlib.util.find_spec(name)) and spec.submodule_search_locations:
            package = Path(spec.submodule_search_locations[0]).resolve()
            for part in (package, package.with_name(f"{name}.libs")):
                if part.is_dir():
                    shutil.copytree(part, folder / part.name, copy_function=os.symlink)
                    libraries += [path for path in (folder / part.name).rglob("*.so*") if path.is_file()]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return frozenset(filter(None, pool.map(patch, libraries)))


def patch(link: Path) -> str | None:
    """Put a copy without cpuid in the place of `link`; the library that it led to, None where that has no cpuid."""
    library = link.resolve()
    code = bytearray(library.read_bytes())
    if CPUID not in code:
        return None
    offsets = cpuids(library)
    for offset in offsets:
        if code[offset : offset + 2] != CPUID:
            raise InputError(f"objdump does not show where the instructions of {library} are.")
        code[offset : offset + 2] = UNDEFINED
    if offsets:
        link.unlink()
        link.write_bytes(code)
    return str(library) if offsets else None


def cpuids(library: Path) -> list[int]:
    """Where in the file `library` its cpuid instructions are, told from other bytes of that value by disassembly."""
    with subprocess.Popen(["objdump", "-dhw", "--no-show-raw-insn", library], stdout=subprocess.PIPE) as disassembly:
        wanted = ["grep", "-E", r"^ +[0-9]+ \.|\bcpuid\b"]
        lines = subprocess.run(wanted, stdin=disassembly.stdout, stdout=subprocess.PIPE, text=True, check=True).stdout
    sections = [[int(number, 16) for number in match.groups()] for match in _SECTION.finditer(lines)]
    addresses = [int(match.group(1), 16) for match in _FOUND.finditer(lines)]
    return [
        address - start + offset
        for address in addresses
        for size, start, offset in sections
        if start <= address < start + size
    ]


def compiled(source: Path, folder: Path) -> Path:
    """The C file `source` as a shared library in `folder`."""
    library = folder / source.with_suffix(".so").name
    command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, source]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"gcc cannot compile {source.name}: it says why above.")
    return library


def print_pair() -> None:
    """Print 255·127 + 255·127 as ONNX Runtime adds it, an element of a product that its fast kernels take."""
    import onnxruntime
    from onnx import TensorProto, helper

    weights = helper.make_tensor("b", TensorProto.INT8, [2, 32], np.full(64, 127, np.int8).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "pair",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [16, 2])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [16, 32])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    print(int(session.run(None, {"a": np.full((16, 2), 255, np.uint8)})[0][0, 0]))
