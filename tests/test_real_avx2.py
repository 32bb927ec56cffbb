"""benchmarks/real_avx2.py on a library of our own: which bytes it replaces, and what cpuid then says."""

import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vit_export.base.python import python_command

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from real_avx2 import CPUID, SHIM, UNDEFINED, compiled, cpuids, patch

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64") or not all(map(shutil.which, ("gcc", "objdump", "grep"))),
    reason="for x86-64 Linux with gcc and objdump",
)

SOURCE = """
#include <cpuid.h>
unsigned number(void) { return 0xa20f; } /* the bytes of cpuid, inside another instruction */
void ask(unsigned leaf, unsigned part, unsigned *r) { __cpuid_count(leaf, part, r[0], r[1], r[2], r[3]); }
void fail(void) { __builtin_trap(); }
"""

CALL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
words = (ctypes.c_uint * 4)()
for leaf, part in ((1, 0), (7, 0), (7, 1), (0x24, 0)):
    library.ask(leaf, part, words)
    print(*words)
print(library.number())
"""

AVX2, AVX512F, VNNI, AMX = 1 << 5, 1 << 16, 1 << 11, 0b111 << 22  # of leaf 7: EBX, EBX, ECX, EDX
APIC = 0xFF << 24  # of leaf 1, EBX: the core that was asked


@pytest.fixture
def library(tmp_path):
    (tmp_path / "library.c").write_text(SOURCE)
    return compiled(tmp_path / "library.c", tmp_path)


@pytest.fixture
def patched(library, tmp_path):
    link = tmp_path / "link.so"
    link.symlink_to(library)
    assert patch(link) == str(library)
    return link


def call(library, shim=None, code=CALL):
    environment = {"LD_PRELOAD": str(shim)} if shim else {}
    command = python_command("-c", code, str(library))
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_only_instructions_are_replaced(library, patched):
    before, after = library.read_bytes(), patched.read_bytes()
    (offset,) = cpuids(library)
    assert before.count(CPUID) > 1
    assert after == before[:offset] + UNDEFINED + before[offset + 2 :]


def test_what_asks_nothing_stays_a_link(tmp_path):
    (tmp_path / "silent.c").write_text("unsigned number(void) { return 0xa20f; }")
    link = tmp_path / "link.so"
    link.symlink_to(compiled(tmp_path / "silent.c", tmp_path))
    assert patch(link) is None
    assert link.is_symlink()


def test_avx2_is_told_and_nothing_newer(library, patched, tmp_path):
    told = [call(library), call(patched, compiled(SHIM, tmp_path))]
    rows = [[list(map(int, line.split())) for line in done.stdout.splitlines()] for done in told]
    (first, features, *_, number), (hidden_first, hidden, *newer, hidden_number) = rows
    for words in (first, hidden_first):
        words[1] &= ~APIC
    assert hidden_first == first
    assert hidden[1] & AVX2 == features[1] & AVX2
    assert not hidden[1] & AVX512F
    assert not hidden[2] & VNNI
    assert not hidden[3] & AMX
    assert newer == [[0, 0, 0, 0]] * 2
    assert hidden_number == number == [0xA20F]


def test_another_undefined_instruction_ends_the_process_as_ever(patched, tmp_path):
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).fail()"
    assert call(patched, compiled(SHIM, tmp_path), code).returncode == -signal.SIGILL
    assert call(patched).returncode == -signal.SIGILL  # and nothing answers without the shim
