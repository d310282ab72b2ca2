#!/usr/bin/env python3
"""Turn a checkpoint of PyTorch (`pytorch_model.bin`) into safetensors, without PyTorch and without running its pickle.

    pip download --no-deps microformer-mgm==0.5.8 && unzip microformer_mgm-0.5.8-*.whl -d unpacked
    python3 torch_to_safetensors.py unpacked/mgm/resources/general_model microformer

Float tensors are copied bit for bit, and `config.json` with them; the causal masks that GPT-2 checkpoints carry
(`attn.bias`, `attn.masked_bias`) are left out. The unpickler knows the four names that a checkpoint needs and refuses
every other. Needs the standard library.
"""

import collections
import io
import json
import math
import pathlib
import pickle
import shutil
import sys
import zipfile

Storage = collections.namedtuple("Storage", "kind key")
Tensor = collections.namedtuple("Tensor", "storage offset shape strides")


class Checkpoint(pickle.Unpickler):
    """Builds descriptions of tensors, and nothing else."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: Tensor(storage, offset, shape, strides)
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no business in a checkpoint")

    def persistent_load(self, reference):
        _, kind, key, *_ = reference
        return Storage(kind, key)


def contiguous(shape):
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def main(source, target):
    archive = zipfile.ZipFile(source / "pytorch_model.bin")
    root = archive.namelist()[0].split("/")[0]
    tensors = Checkpoint(io.BytesIO(archive.read(f"{root}/data.pkl"))).load()
    header, chunks, end = {}, [], 0
    for name, tensor in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if tensor.storage.kind != "FloatStorage" or tuple(tensor.strides) != contiguous(tensor.shape):
            sys.exit(f"{name}: only contiguous 32-bit floats are copied")
        size = 4 * math.prod(tensor.shape)
        data = archive.read(f"{root}/data/{tensor.storage.key}")[4 * tensor.offset :][:size]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        chunks.append(data)
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
    shutil.copy(source / "config.json", target / "config.json")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
