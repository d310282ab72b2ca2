"""Checks what ptxas made of the kernels: registers, and multiply-adds that are fused.

check.py DIRECTORY, with NN.log of `ptxas -v` and NN.sass of nvdisasm for compute capabilities NN.
"""

import glob
import os
import re
import sys

directory = sys.argv[1]

# Registers a thread. 65536 of a multiprocessor are for as many threads as fit: 128 for 512 threads, 168 for 384.
REGISTERS = {
    "columns_combine": 112,
    "columns_expand": 40,
    "columns_sum": 32,
    "divide_finish": 48,
    "dot_fields": 64,
    "dot_integers": 128,
    "fq_elementwise": 48,
    "fr_add_at": 32,
    "fr_chain": 48,
    "fr_elementwise": 48,
    "fr_invert": 72,
    "fr_powers": 56,
    "lagrange_denominators": 32,
    "lagrange_weights": 48,
    "linked_jump": 56,
    "linked_scatter": 32,
    "linked_start": 48,
    "msm_accumulate": 144,
    "msm_count": 32,
    "msm_digits": 40,
    "msm_double": 128,
    "msm_finish": 144,
    "msm_fold": 144,
    "msm_offsets": 48,
    "msm_reduce": 255,
    "msm_scatter": 32,
    "ntt_pass": 104,
    "permutation_finish": 48,
    "permutation_fractions": 80,
    "program_run": 56,
    "scan_apply": 64,
    "scan_offsets": 72,
    "scan_totals": 48,
}

# Products of field elements in a kernel's code. Each is 128 multiplications of words; the reduction's first words
# are plain multiplications, and what ptxas cannot pair it writes as .HI beside a plain one.
PRODUCTS = {"fr_chain": 1, "fr_elementwise": 1, "fq_elementwise": 1, "ntt_pass": 7, "msm_accumulate": 17}

failures = []
for log in sorted(glob.glob(f"{directory}/*.log")):
    target = os.path.basename(log)[:-4]
    with open(log) as f:
        used = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", f.read(), re.S)
    if sorted(name for name, _ in used) != sorted(REGISTERS):
        failures.append(f"sm_{target}: kernels without a budget: {sorted(set(n for n, _ in used) ^ set(REGISTERS))}")
    for name, registers in used:
        if int(registers) > REGISTERS.get(name, 0):
            failures.append(f"sm_{target}: {name} takes {registers} registers, its budget is {REGISTERS.get(name)}")

for sass in sorted(glob.glob(f"{directory}/*.sass")):
    target = os.path.basename(sass)[:-5]
    with open(sass) as f:
        parts = re.split(r"^\.text\.(\w+):$", f.read(), flags=re.M)
    code = dict(zip(parts[1::2], parts[2::2]))
    for name, products in PRODUCTS.items():
        wide, high = len(re.findall(r"\bIMAD\.WIDE", code[name])), len(re.findall(r"\bIMAD\.HI", code[name]))
        total = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code[name], re.M))
        print(f"sm_{target} {name}: {total} instructions, {wide} IMAD.WIDE, {high} IMAD.HI")
        if wide < 108 * products or high > 16 * products + 4:
            failures.append(f"sm_{target}: {name}: multiply-adds are no longer fused")

for failure in failures:
    print(failure)
sys.exit(bool(failures))
