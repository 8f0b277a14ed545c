#!/usr/bin/env python3
"""Compare the logits of `awq evaluate` with a forward pass written in NumPy, in double precision.

    forward_numpy.py AWQ_PROGRAM [MODEL...]

Makes small random models of every architecture, rotary scaling, dtype and quantised format that the program reads, and
compares every logit, relative to the largest of its row; then the perplexity and the divergence of two of them over
overlapping windows.  Models given as arguments (Llama, dense) are compared as well, on random tokens.  Exits with 77
where NumPy is missing.
"""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("forward_numpy: skipped, there is no NumPy")
    sys.exit(77)

TOLERANCE = 1e-3
WINDOWS, LENGTH, VOCABULARY = 3, 41, 72


# ---------------------------------------------------------------------------------- safetensors

def to_bf16_bits(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class BF16:
    """An array stored as bfloat16: its bits, as NumPy has no such type."""

    def __init__(self, values):
        self.bits = to_bf16_bits(values)

    def floats(self):
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


NAMES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64"}
TYPES = {name: dtype for dtype, name in NAMES.items()}


def write_safetensors(path, tensors):
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        array = tensor.bits if isinstance(tensor, BF16) else tensor
        blob = array.tobytes()
        header[name] = {
            "dtype": "BF16" if isinstance(tensor, BF16) else NAMES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


# ----------------------------------------------------------------------------- the forward pass

def rms_norm(x, weight, epsilon):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def norm(config, weights, name, x):
    weight = weights[name + ".weight"]
    if config["model_type"] == "opt":
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(np.var(x, axis=-1, keepdims=True) + 1e-5) * weight + weights[name + ".bias"]
    return rms_norm(x, weight + 1 if config["model_type"] == "gemma" else weight, config["rms_norm_eps"])


def activation(config, x):
    kinds = {"gemma": "gelu_pytorch_tanh", "opt": config.get("activation_function", "relu")}
    kind = kinds.get(config["model_type"], "silu")
    if kind == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu_pytorch_tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / (1 + np.exp(-x))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def rotary_frequencies(config, width):
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    theta = scaling.get("rope_theta", config.get("rope_theta", 10000.0))
    frequencies = theta ** (-np.arange(0, width, 2) / width)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelengths = 2 * np.pi / frequencies
        smooth = (original / wavelengths - low) / (high - low)
        blended = (1 - smooth) * frequencies / factor + smooth * frequencies
        result = np.where(wavelengths > original / low, frequencies / factor, blended)
        return np.where(wavelengths < original / high, frequencies, result)
    return frequencies


def rotate(x, frequencies):
    angles = np.outer(np.arange(x.shape[0]), frequencies)[:, None, :]
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)


def window_of(config, layer):
    if config["model_type"] in ("mistral", "phi3", "mixtral"):
        return config.get("sliding_window")
    if config.get("use_sliding_window") and layer >= config["max_window_layers"]:
        return config["sliding_window"]
    return None


def attention(config, weights, prefix, layer, x):
    heads, shared = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    width = config.get("head_dim") or config["hidden_size"] // heads
    count = x.shape[0]

    def project(name, number):
        y = x @ weights[prefix + name + ".weight"].T + weights.get(prefix + name + ".bias", 0.0)
        return y.reshape(count, number, width)

    q, k, v = project("q_proj", heads), project("k_proj", shared), project("v_proj", shared)
    if prefix + "q_norm.weight" in weights:
        q = rms_norm(q, weights[prefix + "q_norm.weight"], config["rms_norm_eps"])
        k = rms_norm(k, weights[prefix + "k_norm.weight"], config["rms_norm_eps"])
    frequencies = rotary_frequencies(config, width)
    if config["model_type"] != "opt":
        q, k = rotate(q, frequencies), rotate(k, frequencies)
    k, v = np.repeat(k, heads // shared, axis=1), np.repeat(v, heads // shared, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width)
    distance = np.arange(count)[:, None] - np.arange(count)[None, :]
    window = window_of(config, layer)
    hidden = (distance < 0) | (distance >= (window or count))
    mixed = np.einsum("hij,jhd->ihd", softmax(np.where(hidden, -np.inf, scores)), v).reshape(count, heads * width)
    return mixed @ weights[prefix + "o_proj.weight"].T + weights.get(prefix + "o_proj.bias", 0.0)


def mlp(config, weights, prefix, x):
    def project(name, value):
        return value @ weights[prefix + name + ".weight"].T + weights.get(prefix + name + ".bias", 0.0)

    if prefix + "gate_proj.weight" not in weights:
        scales = weights.get(prefix.replace("mlp.", "activation_fn.scales"), 1.0)
        return project("down_proj", activation(config, project("up_proj", x)) / scales)
    return project("down_proj", activation(config, project("gate_proj", x)) * project("up_proj", x))


def experts(config, weights, prefix, x):
    """A mixture of experts, each under Llama's names."""
    kind = config["model_type"]
    scores = softmax(x @ weights[prefix + "gate.weight"].T)
    result = np.zeros_like(x)
    for row in range(len(x)):
        chosen = np.argsort(-scores[row])[:config["num_experts_per_tok"]]
        whole = scores[row][chosen].sum() if kind == "mixtral" or config.get("norm_topk_prob") else 1
        for expert in chosen:
            result[row] += scores[row][expert] / whole * mlp(config, weights, f"{prefix}experts.{expert}.", x[row])
    if kind == "qwen2_moe":
        gate = x @ weights[prefix + "shared_expert_gate.weight"].T
        result += mlp(config, weights, prefix + "shared_expert.", x) / (1 + np.exp(-gate))
    return result


def split_rows(weights, name, parts):
    """A tensor of several linears, as those."""
    stacked = weights.pop(name)
    for part, rows in parts.items():
        weights[part], stacked = stacked[:rows], stacked[rows:]


def canonical(config, weights):
    """The weights under Llama's names."""
    weights = dict(weights)
    if config["model_type"] == "opt":
        names = [("model.decoder.final_layer_norm", "model.norm"), ("model.decoder.", "model."),
                 ("self_attn_layer_norm", "input_layernorm"), ("final_layer_norm", "post_attention_layernorm"),
                 ("out_proj", "o_proj"), ("fc1", "mlp.up_proj"), ("fc2", "mlp.down_proj")]
        for old, new in names:
            weights = {name.replace(old, new): value for name, value in weights.items()}
    if config["model_type"] == "mixtral":
        names = [("block_sparse_moe", "mlp"), ("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")]
        for old, new in names:
            weights = {name.replace(old, new): value for name, value in weights.items()}
    if config["model_type"] == "phi3":
        width = config["hidden_size"] // config["num_attention_heads"]
        heads, shared = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
        inner = config["intermediate_size"]
        for layer in range(config["num_hidden_layers"]):
            own = f"model.layers.{layer}.self_attn."
            split_rows(weights, own + "qkv_proj.weight",
                       {own + "q_proj.weight": heads, own + "k_proj.weight": shared, own + "v_proj.weight": shared})
            own = f"model.layers.{layer}.mlp."
            split_rows(weights, own + "gate_up_proj.weight",
                       {own + "gate_proj.weight": inner, own + "up_proj.weight": inner})
    return weights


def forward(config, weights, tokens):
    weights = canonical(config, weights)
    x = weights["model.embed_tokens.weight"][tokens]
    if config["model_type"] == "gemma":
        x = x * float(BF16(np.array([np.sqrt(config["hidden_size"])])).floats()[0])
    if config["model_type"] == "opt":
        x = x + weights["model.embed_positions.weight"][2:2 + len(tokens)]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        normed = norm(config, weights, prefix + "input_layernorm", x)
        x = x + attention(config, weights, prefix + "self_attn.", layer, normed)
        normed = norm(config, weights, prefix + "post_attention_layernorm", x)
        x = x + (experts if is_mixture(config) else mlp)(config, weights, prefix + "mlp.", normed)
    head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return norm(config, weights, "model.norm", x) @ weights[head].T


# ------------------------------------------------------------------------------- quantised linears

def pack_along_last(codes, bits):
    """Codes, low bits first, dense across 32-bit words."""
    planes = (codes[..., None] >> np.arange(bits)) & 1
    stream = planes.reshape(*codes.shape[:-1], -1).astype(np.uint8)
    pad = -stream.shape[-1] % 32
    stream = np.concatenate([stream, np.zeros((*stream.shape[:-1], pad), np.uint8)], axis=-1)
    return np.packbits(stream, axis=-1, bitorder="little").view("<u4").view(np.int32)


def random_codes(random, shape, group, bits, symmetric):
    n, k = shape
    codes = random.integers(0, 2**bits, (n, k))
    zeros = np.full((n, k // group), 2 ** (bits - 1)) if symmetric else random.integers(0, 2**bits, (n, k // group))
    scales = (random.uniform(0.5, 1.5, (n, k // group)) * 3 / (2**bits * np.sqrt(k))).astype(np.float16)
    spread = np.repeat(np.arange(k // group), group)
    return codes, scales, zeros, (codes - zeros[:, spread]) * scales.astype(np.float64)[:, spread]


def gemm_planes(codes, scales, zeros):
    def words(matrix):
        ordered = matrix.reshape(matrix.shape[0], -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].astype(np.uint32)
        return (ordered << np.arange(0, 32, 4, dtype=np.uint32)).sum(axis=-1).astype(np.uint32).view(np.int32)

    return {"qweight": words(codes.T), "qzeros": words(zeros.T), "scales": np.ascontiguousarray(scales.T)}


def compressed_planes(codes, scales, zeros, bits, symmetric):
    planes = {
        "weight_packed": pack_along_last(codes, bits),
        "weight_scale": scales,
        "weight_shape": np.array(codes.shape, np.int64),
    }
    if not symmetric:
        planes["weight_zero_point"] = np.ascontiguousarray(pack_along_last(zeros.T, bits).T)
    return planes


# --------------------------------------------------------------------------------- random models

def is_mixture(config):
    return config["model_type"] in ("mixtral", "qwen2_moe", "qwen3_moe")


def expert_shapes(config):
    hidden = config["hidden_size"]
    if config["model_type"] == "mixtral":
        shapes = {"block_sparse_moe.gate": (config["num_local_experts"], hidden)}
        names, prefix, count = ("w1", "w3", "w2"), "block_sparse_moe.experts.", config["num_local_experts"]
        inner = config["intermediate_size"]
    else:
        shapes = {"mlp.gate": (config["num_experts"], hidden)}
        names, prefix, count = ("gate_proj", "up_proj", "down_proj"), "mlp.experts.", config["num_experts"]
        inner = config["moe_intermediate_size"]
    parts = [(f"{prefix}{expert}.", inner) for expert in range(count)]
    if config["model_type"] == "qwen2_moe":
        shapes["mlp.shared_expert_gate"] = (1, hidden)
        parts.append(("mlp.shared_expert.", config["shared_expert_intermediate_size"]))
    for part, inner in parts:
        for name, shape in zip(names, ((inner, hidden), (inner, hidden), (hidden, inner))):
            shapes[part + name] = shape
    return shapes


def linear_shapes(config):
    heads, shared = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    hidden, inner = config["hidden_size"], config.get("ffn_dim", config["intermediate_size"])
    width = config.get("head_dim") or hidden // heads
    if config["model_type"] == "opt":
        shapes = {f"self_attn.{name}_proj": (hidden, hidden) for name in ("q", "k", "v", "out")}
        return {**shapes, "fc1": (inner, hidden), "fc2": (hidden, inner)}
    if config["model_type"] == "phi3":
        return {
            "self_attn.qkv_proj": ((heads + 2 * shared) * width, hidden),
            "self_attn.o_proj": (hidden, heads * width),
            "mlp.gate_up_proj": (2 * inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
    own = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (shared * width, hidden),
        "self_attn.v_proj": (shared * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
    }
    if is_mixture(config):
        return {**own, **expert_shapes(config)}
    return {
        **own,
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def has_bias(config, name):
    if config["model_type"] == "opt":
        return True
    if name.startswith(("mlp.", "block_sparse_moe.")):
        return config.get("mlp_bias", False)
    if config["model_type"] in ("qwen2", "qwen2_moe"):
        return name != "self_attn.o_proj"
    return config.get("attention_bias", False)


def random_model(config, seed, dtype, quantized=None):
    """Tensors as stored, and the float64 values they stand for."""
    random = np.random.default_rng(seed)
    stored, exact = {}, {}

    def add(name, values):
        stored[name] = BF16(values) if dtype == "bfloat16" else values.astype(dtype)
        rounded = stored[name].floats() if dtype == "bfloat16" else stored[name]
        exact[name] = rounded.astype(np.float64)

    def add_linear(name, shape):
        if not quantized or quantized["skip"] in name or name.endswith(("mlp.gate", "moe.gate", "expert_gate")):
            add(name + ".weight", random.normal(0, 1.6 / np.sqrt(shape[1]), shape))
            return
        bits, symmetric = quantized["bits"], quantized["symmetric"]
        codes, scales, zeros, exact[name + ".weight"] = random_codes(random, shape, quantized["group"], bits, symmetric)
        if quantized["method"] == "awq":
            planes = gemm_planes(codes, scales, zeros)
        else:
            planes = compressed_planes(codes, scales, zeros, bits, symmetric)
        stored.update({f"{name}.{plane}": value for plane, value in planes.items()})

    def add_norm(name, size):
        add(name + ".weight", random.uniform(0.5, 1.5, size) - (config["model_type"] == "gemma"))
        if config["model_type"] == "opt":
            add(name + ".bias", random.normal(0, 0.5, size))

    hidden, width = config["hidden_size"], config.get("head_dim")
    start, attention_norm, mlp_norm = "model.", "input_layernorm", "post_attention_layernorm"
    if config["model_type"] == "opt":
        start, attention_norm, mlp_norm = "model.decoder.", "self_attn_layer_norm", "final_layer_norm"
        add(start + "embed_positions.weight", random.normal(0, 1, (config["max_position_embeddings"] + 2, hidden)))
    add(start + "embed_tokens.weight", random.normal(0, 1, (VOCABULARY, hidden)))
    add_norm(start + ("final_layer_norm" if config["model_type"] == "opt" else "norm"), hidden)
    if not config.get("tie_word_embeddings"):
        add("lm_head.weight", random.normal(0, 2 / np.sqrt(hidden), (VOCABULARY, hidden)))
    for layer in range(config["num_hidden_layers"]):
        prefix = f"{start}layers.{layer}."
        add_norm(prefix + attention_norm, hidden)
        add_norm(prefix + mlp_norm, hidden)
        if config.get("activation_function") == "gelu":
            add(prefix + "activation_fn.scales", random.uniform(0.5, 2, config["ffn_dim"]))
        if config["model_type"] in ("qwen3", "qwen3_moe"):
            add(prefix + "self_attn.q_norm.weight", random.uniform(0.5, 1.5, width))
            add(prefix + "self_attn.k_norm.weight", random.uniform(0.5, 1.5, width))
        for name, shape in linear_shapes(config).items():
            add_linear(prefix + name, shape)
            if has_bias(config, name):
                add(prefix + name + ".bias", random.normal(0, 0.5, shape[0]))
    return stored, exact


CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3",
           "gemma": "Gemma", "opt": "OPT", "mixtral": "Mixtral", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe"}


def model(kind, **keys):
    config = {
        "architectures": [CLASSES[kind] + "ForCausalLM"],
        "model_type": kind,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }
    config.update(keys)
    return config


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}

DENSE = [
    ("llama, tied", "float16", model("llama", tie_word_embeddings=True)),
    ("llama, llama3 rope, biases, odd heads", "bfloat16",
     model("llama", rope_scaling=LLAMA3, rope_theta=500000.0, attention_bias=True, mlp_bias=True, head_dim=20)),
    ("llama, linear rope, no sharing of keys", "float32",
     model("llama", rope_scaling={"type": "linear", "factor": 3.0}, num_key_value_heads=4)),
    ("llama, rope_parameters, three heads a key", "float32",
     model("llama", rope_parameters=dict(LLAMA3, rope_theta=1000.0), num_attention_heads=6, head_dim=16)),
    ("mistral, sliding window", "bfloat16", model("mistral", sliding_window=9, head_dim=32, rope_theta=1e6)),
    ("mistral, no window", "float16", model("mistral", sliding_window=None)),
    ("qwen2, tied", "bfloat16", model("qwen2", tie_word_embeddings=True, rms_norm_eps=1e-6)),
    ("qwen2, windows in later layers", "float32",
     model("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    ("gemma", "bfloat16", model("gemma", head_dim=32, tie_word_embeddings=True, hidden_act="gelu",
                                torch_dtype="bfloat16")),
    ("opt", "float16", model("opt", ffn_dim=80, num_key_value_heads=4, tie_word_embeddings=True)),
    ("opt, GELU, scaled", "float16", model("opt", ffn_dim=80, num_key_value_heads=4, tie_word_embeddings=True,
                                           activation_function="gelu")),
    ("opt, a head of its own", "float32", model("opt", ffn_dim=80, num_key_value_heads=4, tie_word_embeddings=False)),
    ("mixtral", "float16", model("mixtral", num_local_experts=5, num_experts_per_tok=2)),
    ("qwen2_moe, a shared expert", "bfloat16",
     model("qwen2_moe", num_experts=6, num_experts_per_tok=3, moe_intermediate_size=48,
           shared_expert_intermediate_size=112)),
    ("qwen3_moe", "float32", model("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48,
                                   norm_topk_prob=True, head_dim=16)),
    ("phi3, sliding window", "float16", model("phi3", sliding_window=11)),
    ("qwen3", "bfloat16", model("qwen3", head_dim=24, rope_theta=1e6)),
]

AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32, "zero_point": True}


def compressed(bits, symmetric, strategy="group"):
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": False}
    if strategy == "group":
        weights["group_size"] = 32
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}


QUANTIZED = [
    ("gemm", model("llama", quantization_config=AWQ), 32, "lm_head"),
    ("gemm, q, k, v of several kinds", model("qwen2", quantization_config=AWQ), 32, "v_proj"),
    ("gemm, names of old", model("mistral", quantization_config={"quant_method": "awq", "w_bit": 4, "q_group_size": 32,
                                                                 "version": "GEMM"}), 32, "lm_head"),
    ("compressed-tensors, 4 bits", model("qwen2", quantization_config=compressed(4, False)), 32, "lm_head"),
    ("compressed-tensors, 4 bits symmetric", model("llama", quantization_config=compressed(4, True)), 32, "lm_head"),
    ("compressed-tensors, 2 bits", model("llama", quantization_config=compressed(2, False)), 32, "lm_head"),
    ("compressed-tensors, 3 bits", model("llama", quantization_config=compressed(3, False)), 32, "lm_head"),
    ("compressed-tensors, 8 bits", model("qwen3", head_dim=32, quantization_config=compressed(8, True)), 32, "lm_head"),
    ("gemm, no gate", model("opt", ffn_dim=96, num_key_value_heads=4, tie_word_embeddings=False,
                                    quantization_config=AWQ), 32, "lm_head"),
    ("gemm, experts", model("mixtral", num_local_experts=4, num_experts_per_tok=2, quantization_config=AWQ), 32,
     "lm_head"),
    ("gemm, q, k, v in one", model("phi3", quantization_config=AWQ), 32, "lm_head"),
    ("compressed-tensors, whole rows",
     model("llama", intermediate_size=64, quantization_config=compressed(4, True, "channel")), 64, "lm_head"),
]


# ------------------------------------------------------------------------------------- comparing

def run(program, directory, tokens, *options):
    logits = os.path.join(os.path.dirname(tokens), "logits.npy")
    command = [program, "evaluate", directory, "--tokens", tokens, "--logits", logits, "--json", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stderr.strip())
    return np.load(logits), json.loads(result.stdout)


def compare(program, directory, config, exact, tokens, path):
    np.save(path, tokens)
    expected = np.concatenate([forward(config, exact, row[:-1]) for row in tokens])
    targets = tokens[:, 1:].reshape(-1)
    likelihood = np.log(softmax(expected))[np.arange(len(targets)), targets]
    worst = 0.0
    for options in ([], ["--no-fuse"], ["--threads", "1"]):
        logits, report = run(program, directory, path, *options)
        error = np.abs(logits - expected).max(axis=-1) / np.abs(expected).max(axis=-1)
        loss = abs(report["loss"] + likelihood.mean())
        worst = max(worst, error.max(), loss)
    return worst


def check(name, work):
    try:
        worst = work()
        ok = bool(worst <= TOLERANCE)
        print(f"forward_numpy: {'ok' if ok else 'FAILED'}: {name}: relative error {worst:.1e}")
    except RuntimeError as error:
        ok = False
        print(f"forward_numpy: FAILED: {name}: {error}")
    return ok


def write_model(directory, config, stored):
    os.mkdir(directory)
    write_safetensors(os.path.join(directory, "model.safetensors"), stored)
    with open(os.path.join(directory, "config.json"), "w") as file:
        json.dump(config, file)


def check_random(program, name, config, seed, dtype, quantized=None):
    stored, exact = random_model(config, seed, dtype, quantized)
    tokens = np.random.default_rng(seed + 1000).integers(0, VOCABULARY, (WINDOWS, LENGTH)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as directory:
        model_directory = os.path.join(directory, "model")
        write_model(model_directory, config, stored)
        path = os.path.join(directory, "tokens.npy")
        return check(name, lambda: compare(program, model_directory, config, exact, tokens, path))


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def check_windows(program, context, stride):
    """Every token after the first is predicted once, in the first window that reaches it."""
    configs = [DENSE[0][2], DENSE[-1][2]]
    models = [random_model(config, 50 + i, "float16") for i, config in enumerate(configs)]
    tokens = np.random.default_rng(7).integers(0, VOCABULARY, 150)
    loss = divergence = agreed = 0.0
    done = 0
    for begin in range(0, len(tokens) - 1, stride):
        fed = tokens[begin:min(begin + context, len(tokens) - 1)]
        p, q = (log_softmax(forward(config, exact, fed)) for config, (_, exact) in zip(configs[::-1], models[::-1]))
        for position in range(max(done - begin, 0), len(fed)):
            loss -= q[position, tokens[begin + position + 1]]
            divergence += (np.exp(p[position]) * (p[position] - q[position])).sum()
            agreed += p[position].argmax() == q[position].argmax()
        done = begin + len(fed)
        if done == len(tokens) - 1:
            break
    expected = {"loss": loss / done, "kl_divergence": divergence / done, "top1_agreement": agreed / done,
                "tokens": done}

    def work():
        with tempfile.TemporaryDirectory() as scratch:
            directories = [os.path.join(scratch, name) for name in ("model", "reference")]
            for directory, config, (stored, _) in zip(directories, configs, models):
                write_model(directory, config, stored)
            path = os.path.join(scratch, "tokens.npy")
            np.save(path, tokens)
            _, report = run(program, directories[0], path, "--against", directories[1], "--context", str(context),
                            "--stride", str(stride))
        return max(abs(report[key] - value) / max(value, 1e-9) for key, value in expected.items())

    return check(f"windows of {context}, one every {stride}", work)


def check_given(program, directory):
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    weights = read_safetensors(os.path.join(directory, "model.safetensors"))
    exact = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
    length = min(config["max_position_embeddings"], 256) + 1
    tokens = np.random.default_rng(0).integers(0, config["vocab_size"], (2, length))
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "tokens.npy")
        return check(directory, lambda: compare(program, directory, config, exact, tokens, path))


def main():
    program, given = sys.argv[1], sys.argv[2:]
    results = []
    for seed, (name, dtype, config) in enumerate(DENSE):
        results.append(check_random(program, name, config, seed, dtype))
    for seed, (name, config, group, skip) in enumerate(QUANTIZED):
        quantization = config["quantization_config"]
        weights = quantization.get("config_groups", {}).get("group_0", {}).get("weights", {})
        quantized = {"method": quantization["quant_method"], "bits": weights.get("num_bits", 4), "group": group,
                     "symmetric": weights.get("symmetric", False), "skip": skip}
        results.append(check_random(program, name, config, 100 + seed, "float16", quantized))
    for context, stride in ((40, 16), (64, 64), (50, 1), (128, 100)):
        results.append(check_windows(program, context, stride))
    for directory in given:
        results.append(check_given(program, directory))
    print(f"forward_numpy: {sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
