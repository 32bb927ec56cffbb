/* Answers cpuid as a processor with AVX2, without AVX-512, VNNI and AMX, would: preloaded by real_avx2.py.

   In copies of the runtimes' libraries every cpuid instruction has been replaced by the undefined opcode 0f 0a. The
   handler of SIGILL runs the real instruction in its place and clears what is to be hidden: "CPUID - CPU
   Identification" in Intel's Software Developer's Manual, volume 2A, names the bits. What xgetbv says is left as it is:
   that the system saves registers means nothing to code that was told that there are none. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static struct sigaction before;

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)registers[REG_RIP];
    if (at[0] != 0x0f || at[1] != 0x0a) {
        sigaction(SIGILL, &before, 0); /* not ours: the instruction runs again, and meets who was there before */
        return;
    }
    unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, part, a, b, c, d);
    if (leaf == 7 && part == 0) {
        /* AVX512F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT,
           AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));
    } else if (leaf == 7 || leaf == 0x1d || leaf == 0x1e || leaf == 0x24) {
        a = b = c = d = 0; /* AVX-VNNI, AVX-IFMA, AVX512-BF16 and all that is newer; AMX's tiles and products; AVX10 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

/* Runs before the constructors of whatever Python loads later. */
__attribute__((constructor)) static void begin(void) {
    struct sigaction ours = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &ours, &before);
}
