"""Checks what ptxas made of the kernels: registers, multiply-adds that are fused, products of matrices.

check.py DIRECTORY, with NN.log of `ptxas -v` and NN.sass of nvdisasm for compute capabilities NN.
"""

import glob
import os
import re
import sys

directory = sys.argv[1]

# Registers a thread. 65536 of a multiprocessor are for as many threads as fit: 128 for 512 threads, 168 for 384.
REGISTERS = {
    "columns_expand": 40,
    "columns_sum": 32,
    "combine_fields": 64,
    "combine_integers": 128,
    "divide_finish": 64,
    "divide_scale": 64,
    "dot_fields": 64,
    "dot_integers": 96,
    "fq_elementwise": 48,
    "fr_add_at": 32,
    "fr_chain": 48,
    "fr_elementwise": 48,
    "fr_invert": 72,
    "fr_powers": 56,
    "lagrange_denominators": 32,
    "lagrange_weights": 48,
    "linked_jump": 64,
    "linked_scatter": 32,
    "linked_start": 48,
    "memory_wipe": 32,
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
    "program_run": 64,
    "scan_apply": 64,
    "scan_offsets": 72,
    "scan_totals": 48,
}

# Devices from sm_100 on have no product of 8 rows: a product of 16 stands in, with registers for sums of rows that are not there.
FROM_100 = {"combine_integers": 176, "dot_integers": 152}

# Products of field elements in a kernel's code. Each is 128 multiplications of words; the reduction's first words
# are plain multiplications, and what ptxas cannot pair it writes as .HI beside a plain one.
PRODUCTS = {"fr_chain": 1, "fr_elementwise": 1, "fq_elementwise": 1, "ntt_pass": 7, "msm_accumulate": 17}

# Products of matrices in a kernel's code: for each width of integers those of a step, eight rows a lane, and of a round.
MATRICES = {"combine_integers": 3 * 8 * 4, "dot_integers": 3 * 4 * 16}

failures = []
for log in sorted(glob.glob(f"{directory}/*.log")):
    target = os.path.basename(log)[:-4]
    with open(log) as f:
        used = re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", f.read(), re.S)
    if sorted(name for name, _ in used) != sorted(REGISTERS):
        failures.append(f"sm_{target}: kernels without a budget: {sorted(set(n for n, _ in used) ^ set(REGISTERS))}")
    for name, registers in used:
        budget = (REGISTERS | FROM_100 if int(target) >= 100 else REGISTERS).get(name, 0)
        if int(registers) > budget:
            failures.append(f"sm_{target}: {name} takes {registers} registers, its budget is {budget}")

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
    for name, products in MATRICES.items():
        found = len(re.findall(r"\bIMMA\.8816\.U8\.U8", code[name]))
        print(f"sm_{target} {name}: {found} IMMA")
        if found != products:
            failures.append(f"sm_{target}: {name}: {products} products of matrices are expected")

for failure in failures:
    print(failure)
sys.exit(bool(failures))
