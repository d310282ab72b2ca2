#!/usr/bin/env python3
"""Turn the English weights of the PyPI package glassllm 0.1.0 into a Llama checkpoint.

    pip download --no-deps glassllm==0.1.0 && unzip glassllm-0.1.0-py3-none-any.whl -d unpacked
    python3 convert_glassllm.py unpacked model/assets/glassllm

Values stay the package's fp16 values, bit for bit. What changes is where they stand: projections are
transposed to `[outputs, inputs]`, and the rows of Q and K go from adjacent rotary pairs to the
half-split pairs of Hugging Face's Llama. Needs the standard library and numpy.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]


def half_split(rows, heads):
    """Reorder the rows of each head from pairs (2i, 2i+1) to pairs (i, i + head_dim/2)."""
    outputs, inputs = rows.shape
    head_dim = outputs // heads
    pairs = rows.reshape(heads, head_dim // 2, 2, inputs)
    return pairs.transpose(0, 2, 1, 3).reshape(outputs, inputs)


def write_safetensors(path, tensors):
    """Write fp16 tensors: 8-byte header length, JSON header padded to 8 bytes, then the data."""
    header, offset = {}, 0
    for name, value in tensors.items():
        end = offset + value.nbytes
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        for value in tensors.values():
            out.write(np.ascontiguousarray(value).astype("<f2").tobytes())


def tokenizer_json(source):
    """Describe glassllm's byte-pair encoding in the format of the `tokenizers` library."""
    tokens = SPECIALS + source["alphabet"] + ["".join(pair) for pair in source["merges"]]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **special} for i, text in enumerate(SPECIALS)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "\\n|\u2581*[^\u2581\\n]+|\u2581+"},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(tokens)},
            "merges": [list(pair) for pair in source["merges"]],
        },
    }


def main(package, target):
    weights = np.load(package / "glassllm/weights/en.npz")
    config = json.loads(str(weights["__config__"]))
    heads, kv_heads = config["n_heads"], config["n_kv_heads"]
    tensors = {"model.embed_tokens.weight": weights["E"]}
    for layer in range(config["n_layers"]):
        old, new = f"blocks.{layer}.", f"model.layers.{layer}."
        tensors |= {
            new + "input_layernorm.weight": weights[old + "norm1.gamma"],
            new + "self_attn.q_proj.weight": half_split(weights[old + "attn.W_Q"].T, heads),
            new + "self_attn.k_proj.weight": half_split(weights[old + "attn.W_K"].T, kv_heads),
            new + "self_attn.v_proj.weight": weights[old + "attn.W_V"].T,
            new + "self_attn.o_proj.weight": weights[old + "attn.W_O"].T,
            new + "post_attention_layernorm.weight": weights[old + "norm2.gamma"],
            new + "mlp.gate_proj.weight": weights[old + "ffn.W1"].T,
            new + "mlp.up_proj.weight": weights[old + "ffn.W3"].T,
            new + "mlp.down_proj.weight": weights[old + "ffn.W2"].T,
        }
    tensors["model.norm.weight"] = weights["norm_f.gamma"]
    assert all(value.dtype == np.float16 for value in tensors.values())

    target.mkdir(parents=True, exist_ok=True)
    write_safetensors(target / "model.safetensors", tensors)
    llama = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config["d_model"],
        "intermediate_size": tensors["model.layers.0.mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": config["d_model"] // heads,
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["max_len"],
        "rms_norm_eps": config["eps"],
        "rope_theta": config["rope_base"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "torch_dtype": "float16",
    }
    (target / "config.json").write_text(json.dumps(llama, indent=2) + "\n")
    source = json.loads((package / "glassllm/weights/en.tokenizer.json").read_text("utf-8"))
    text = json.dumps(tokenizer_json(source), ensure_ascii=False, separators=(",", ":"))
    (target / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    shutil.copyfile(package / "glassllm-0.1.0.dist-info/licenses/LICENSE", target / "LICENSE")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
