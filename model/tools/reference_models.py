#!/usr/bin/env python3
"""Write small random models of the families that no bundled model has, with logits computed here.

    python3 model/tools/reference_models.py model/tests/reference

Each folder gets `config.json`, `model.safetensors` (names, shapes and layouts as Hugging Face publishes them) and
`logits.json`: ids and the logits of every position, in double precision. The forward passes follow the papers (GPT-2;
Qwen2, arXiv:2407.10671) and share nothing with the crate's. Needs the standard library only.
"""

import json
import math
import pathlib
import random
import struct
import sys


class Tensors:
    """Random tensors, rounded to what a file of f32 holds, in nested lists."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.all = {}

    def make(self, name, shape, size, mean=0.0):
        def value():
            return struct.unpack("<f", struct.pack("<f", self.random.gauss(mean, size)))[0]

        tensor = [[value() for _ in range(shape[1])] for _ in range(shape[0])] if len(shape) == 2 else None
        tensor = tensor or [value() for _ in range(shape[0])]
        self.all[name] = (shape, tensor)
        return tensor

    def write(self, path):
        header, data = {}, b""
        for name, (shape, tensor) in self.all.items():
            flat = [v for row in tensor for v in row] if len(shape) == 2 else tensor
            body = struct.pack(f"<{len(flat)}f", *flat)
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
            data += body
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def apply(x, w, b=None, conv=False):
    """`x W^T + b`, or `x W + b` for a matrix that stands `[inputs, outputs]`."""
    columns = list(zip(*w)) if conv else w
    out = [sum(a * c for a, c in zip(x, column)) for column in columns]
    return [o + c for o, c in zip(out, b)] if b else out


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def attend(queries, keys, values, heads, kv_heads, head_dim):
    """Causal attention of every token; heads of a group share keys and values."""
    mixed = []
    for t, query in enumerate(queries):
        row = []
        for h in range(heads):
            own = slice(h * head_dim, (h + 1) * head_dim)
            kv = h // (heads // kv_heads)
            shared = slice(kv * head_dim, (kv + 1) * head_dim)
            scores = [sum(a * b for a, b in zip(query[own], keys[s][shared])) for s in range(t + 1)]
            weights = softmax([score / math.sqrt(head_dim) for score in scores])
            row += [sum(p * values[s][shared][i] for s, p in enumerate(weights)) for i in range(head_dim)]
        mixed.append(row)
    return mixed


def add(a, b):
    return [x + y for x, y in zip(a, b)]


def layer_norm(x, gain, bias, eps):
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / math.sqrt(variance + eps) * g + b for v, g, b in zip(x, gain, bias)]


def rms_norm(x, gain, eps):
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + eps)
    return [v * scale * g for v, g in zip(x, gain)]


def gelu(v):
    return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def silu(v):
    return v / (1 + math.exp(-v))


def rotate(x, t, head_dim, base):
    """Turn the pairs (i, i + head_dim/2) of each head."""
    out, half = list(x), head_dim // 2
    for first in range(0, len(x), head_dim):
        for i in range(half):
            angle = t * base ** (-2 * i / head_dim)
            a, b = x[first + i], x[first + i + half]
            out[first + i] = a * math.cos(angle) - b * math.sin(angle)
            out[first + i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def gpt2(ids):
    d, heads, ffn, vocab, layers, context, eps = 12, 2, 20, 17, 2, 8, 1e-5
    config = {
        "model_type": "gpt2", "activation_function": "gelu_new", "n_embd": d, "n_head": heads, "n_inner": ffn,
        "n_layer": layers, "n_positions": context, "vocab_size": vocab, "layer_norm_epsilon": eps,
    }
    tensors = Tensors(2)
    make = lambda name, *rest, **more: tensors.make(f"transformer.{name}", *rest, **more)
    # Embeddings with a mean of their own, and one loud feature, as trained models have them.
    wte = make("wte.weight", [vocab, d], 0.4, mean=0.3)
    wpe = make("wpe.weight", [context, d], 0.2, mean=-0.1)
    for row in wpe:
        row[5] += 4.0
    x = [add(wte[i], wpe[t]) for t, i in enumerate(ids)]
    for layer in range(layers):
        name = lambda part: f"h.{layer}.{part}"
        norm = [make(name(f"ln_1.{p}"), [d], s, mean=m) for p, s, m in [("weight", 0.3, 1.0), ("bias", 0.3, 0.0)]]
        attn = [make(name(f"attn.c_attn.{p}"), s, 0.3) for p, s in [("weight", [d, 3 * d]), ("bias", [3 * d])]]
        out = [make(name(f"attn.c_proj.{p}"), s, 0.2) for p, s in [("weight", [d, d]), ("bias", [d])]]
        norm2 = [make(name(f"ln_2.{p}"), [d], s, mean=m) for p, s, m in [("weight", 0.3, 1.0), ("bias", 0.3, 0.0)]]
        up = [make(name(f"mlp.c_fc.{p}"), s, 0.4) for p, s in [("weight", [d, ffn]), ("bias", [ffn])]]
        down = [make(name(f"mlp.c_proj.{p}"), s, 0.2) for p, s in [("weight", [ffn, d]), ("bias", [d])]]
        qkv = [apply(layer_norm(row, *norm, eps), *attn, conv=True) for row in x]
        q, k, v = ([row[part * d : (part + 1) * d] for row in qkv] for part in range(3))
        mixed = attend(q, k, v, heads, heads, d // heads)
        x = [add(row, apply(m, *out, conv=True)) for row, m in zip(x, mixed)]
        inner = [[gelu(g) for g in apply(layer_norm(row, *norm2, eps), *up, conv=True)] for row in x]
        x = [add(row, apply(a, *down, conv=True)) for row, a in zip(x, inner)]
    last = [make(f"ln_f.{p}", [d], s, mean=m) for p, s, m in [("weight", 0.3, 1.0), ("bias", 0.3, 0.0)]]
    return config, tensors, [apply(layer_norm(row, *last, eps), wte) for row in x]


def qwen2(ids):
    d, heads, kv_heads, head_dim, ffn, vocab, layers, eps, base = 12, 4, 2, 4, 10, 17, 2, 1e-6, 10000
    config = {
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": d, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn, "num_hidden_layers": layers,
        "max_position_embeddings": 64, "vocab_size": vocab, "rms_norm_eps": eps, "rope_theta": float(base),
        "use_sliding_window": False, "tie_word_embeddings": False,
    }
    tensors = Tensors(3)
    make = lambda name, *rest, **more: tensors.make(f"model.{name}", *rest, **more)
    embedding = make("embed_tokens.weight", [vocab, d], 0.5)
    x = [list(embedding[i]) for i in ids]
    for layer in range(layers):
        name = lambda part: f"layers.{layer}.{part}"
        norm = make(name("input_layernorm.weight"), [d], 0.3, mean=1.0)
        widths = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
        projections = {
            p: [make(name(f"self_attn.{p}_proj.weight"), [w, d], 0.3), make(name(f"self_attn.{p}_proj.bias"), [w], 1.0)]
            for p, w in widths.items()
        }
        out = make(name("self_attn.o_proj.weight"), [d, heads * head_dim], 0.2)
        norm2 = make(name("post_attention_layernorm.weight"), [d], 0.3, mean=1.0)
        gate, up = (make(name(f"mlp.{p}_proj.weight"), [ffn, d], 0.4) for p in ["gate", "up"])
        down = make(name("mlp.down_proj.weight"), [d, ffn], 0.2)
        normed = [rms_norm(row, norm, eps) for row in x]
        q, k, v = ([apply(n, *projections[p]) for n in normed] for p in "qkv")
        q, k = ([rotate(row, t, head_dim, base) for t, row in enumerate(rows)] for rows in (q, k))
        mixed = attend(q, k, v, heads, kv_heads, head_dim)
        x = [add(row, apply(m, out)) for row, m in zip(x, mixed)]
        for t, row in enumerate(x):
            n = rms_norm(row, norm2, eps)
            inner = [silu(g) * u for g, u in zip(apply(n, gate), apply(n, up))]
            x[t] = add(row, apply(inner, down))
    last = make("norm.weight", [d], 0.3, mean=1.0)
    head = tensors.make("lm_head.weight", [vocab, d], 0.5)
    return config, tensors, [apply(rms_norm(row, last, eps), head) for row in x]


def main():
    target = pathlib.Path(sys.argv[1])
    ids = [3, 16, 0, 7, 7, 12, 1, 9]
    for name, forward in [("gpt2", gpt2), ("qwen2", qwen2)]:
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        config, tensors, logits = forward(ids)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        tensors.write(folder / "model.safetensors")
        (folder / "logits.json").write_text(json.dumps({"ids": ids, "logits": logits}) + "\n")


main()
