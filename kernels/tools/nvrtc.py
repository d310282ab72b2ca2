"""Compiles CUDA C++ to PTX with NVRTC: no toolkit, no host compiler, no GPU.

nvrtc.py LIBRARY ARCHITECTURE INCLUDE_DIRECTORIES(:) SOURCE OUT
"""

import ctypes
import os
import sys

library, architecture, includes, source, out = sys.argv[1:]
nvrtc = ctypes.CDLL(library)


def check(status, what):
    if status:
        sys.exit(f"{what}: NVRTC error {status}")


program = ctypes.c_void_p()
with open(source, "rb") as f:
    text = f.read()
name = os.path.basename(source).encode()
check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None), "create")
options = [f"--gpu-architecture=compute_{architecture}", "--std=c++17"]
options += [f"--include-path={path}" for path in includes.split(":")]
array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
status = nvrtc.nvrtcCompileProgram(program, len(options), array)
size = ctypes.c_size_t()
check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)), "log")
log = ctypes.create_string_buffer(size.value)
check(nvrtc.nvrtcGetProgramLog(program, log), "log")
if log.value:
    sys.exit(log.value.decode())
check(status, "compile")
check(nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)), "PTX")
ptx = ctypes.create_string_buffer(size.value)
check(nvrtc.nvrtcGetPTX(program, ptx), "PTX")
with open(out, "wb") as f:
    f.write(ptx.value)
