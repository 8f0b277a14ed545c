#!/usr/bin/env python3
"""Compares GGUF files of the host application with what the package gguf, llama.cpp's own, makes of the same weights,
and where the package xllamacpp is there, lets llama.cpp itself continue a text.

    gguf_compare.py AWQ MODEL      exit status 77 when a package is missing"""
import json
import os
import re
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
except ImportError:
    print("the packages gguf and numpy are not installed for this Python")
    sys.exit(77)

PROMPT = "The function returns"


def read_safetensors(path):
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F16", name
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], np.float16).reshape(entry["shape"]).astype(np.float32)
    return tensors


def permute(weights, heads):
    return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def expected(tensors, config):
    """Names of GGUF to weights of the model."""
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
             "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    result = {"token_embd.weight": tensors["model.embed_tokens.weight"],
              "output_norm.weight": tensors["model.norm.weight"]}
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in parts.items():
            weights = tensors[f"model.layers.{layer}.{theirs}.weight"]
            if ours == "attn_q":
                weights = permute(weights, config["num_attention_heads"])
            if ours == "attn_k":
                weights = permute(weights, config["num_key_value_heads"])
            result[f"blk.{layer}.{ours}.weight"] = weights
    return result


def compare_tensors(path, weights, kind):
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert found.keys() == weights.keys(), found.keys() ^ weights.keys()
    for name, values in weights.items():
        tensor = found[name]
        want = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
        if name == "token_embd.weight" and kind.name.startswith("Q4"):
            want = gguf.GGMLQuantizationType.Q8_0
        assert tensor.tensor_type == want, (name, tensor.tensor_type)
        assert list(tensor.shape) == list(reversed(values.shape)), name
        mine = np.asarray(tensor.data).reshape(-1).view(np.uint8)
        theirs = gguf.quants.quantize(values, want).reshape(-1).view(np.uint8)
        differing = int((mine != theirs).sum())
        assert differing == 0, f"{name}: {differing} of {mine.size} bytes differ"


def compare_tokenizer(path, vocabulary):
    fields = gguf.GGUFReader(path).fields
    assert len(fields["tokenizer.ggml.tokens"].data) == vocabulary
    assert len(fields["tokenizer.ggml.scores"].data) == vocabulary
    try:
        import sentencepiece
    except ImportError:
        return
    pieces = sentencepiece.SentencePieceProcessor(model_file=os.path.join(sys.argv[2], "tokenizer.model"))
    for index in range(vocabulary):
        text = bytes(fields["tokenizer.ggml.tokens"].parts[fields["tokenizer.ggml.tokens"].data[index]])
        score = fields["tokenizer.ggml.scores"].parts[fields["tokenizer.ggml.scores"].data[index]][0]
        assert text == pieces.id_to_piece(index).encode(), index
        assert score == np.float32(pieces.get_score(index)), index


def compare_with_llama_cpp(awq, model, path):
    """Twelve tokens, greedily; over longer texts, near ties fall either way."""
    try:
        import xllamacpp
    except ImportError:
        return False
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx = 256
    parameters.n_gpu_layers = 0
    parameters.warmup = False
    parameters.n_parallel = 1
    answer = xllamacpp.Server(parameters).handle_completions({"prompt": PROMPT, "n_predict": 12, "temperature": 0})
    text = answer["choices"][0]["text"]
    ours = subprocess.run([awq, "generate", model, "--prompt", PROMPT, "-n", "12"], check=True, capture_output=True)
    ours = ours.stdout.decode().removeprefix(PROMPT)
    assert re.sub(r"\s+$", "", text) == re.sub(r"\s+$", "", ours), (text, ours)
    return True


def main():
    awq, model = sys.argv[1], sys.argv[2]
    with open(os.path.join(model, "config.json")) as file:
        config = json.load(file)
    weights = expected(read_safetensors(os.path.join(model, "model.safetensors")), config)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("F16", "Q8_0", "Q4_0", "Q4_1"):
            path = os.path.join(scratch, kind + ".gguf")
            subprocess.run([awq, "gguf", model, "-o", path, "--type", kind.lower(), "-q"], check=True)
            compare_tensors(path, weights, gguf.GGMLQuantizationType[kind])
        compare_tokenizer(path, config["vocab_size"])
        ran = compare_with_llama_cpp(awq, model, os.path.join(scratch, "F16.gguf"))
    print("4 files agree with the package gguf" + ("; llama.cpp continues a text alike" if ran else ""))


main()
