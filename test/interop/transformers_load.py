"""What awq quantize writes, in the hands of transformers: the configuration is understood, and the model computes the
logits of awq evaluate, with weights unpacked here by the formats' own rules, and through the package's AwqLinear.

    transformers_load.py AWQ MODEL
"""

import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import awq
    import numpy as np
    import torch
    import transformers
    from awq.torch import AwqLinear
    from safetensors.torch import load_file
except ImportError as error:
    print(f"{error.name} is not installed")
    sys.exit(77)

TOKENS, SEED = 64, 1


def unpack_gemm(planes, group_size):
    """AutoAWQ: eight codes a word, along the outputs, in an order of their own."""
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # where column i of eight lies

    def codes(words):
        shifts = torch.tensor([4 * place for place in order])
        return ((words.long()[..., None] >> shifts) & 15).flatten(-2)

    zeros, scales = (part.repeat_interleave(group_size, 0) for part in (codes(planes["qzeros"]), planes["scales"]))
    return ((codes(planes["qweight"]) - zeros) * scales.float()).T


def unpack_compressed_tensors(planes, group_size):
    """Eight codes a word, lowest first, along the inputs, and zero points along the outputs; both plus 8."""

    def codes(words):
        return ((words.long()[..., None] >> torch.arange(0, 32, 4)) & 15).flatten(-2)

    zeros = codes(planes["weight_zero_point"].T.contiguous()).T
    zeros, scales = (part.repeat_interleave(group_size, 1) for part in (zeros, planes["weight_scale"].float()))
    return (codes(planes["weight_packed"]) - zeros) * scales


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens).logits[0].float().numpy()


def build(config, tensors, linears):
    """The model of transformers; ``linears`` maps the names of quantised layers to modules or to weights."""
    model = transformers.LlamaForCausalLM(config).eval()
    state = {name: tensor.float() for name, tensor in tensors.items() if tensor.dtype == torch.float16}
    for name, linear in linears.items():
        if isinstance(linear, torch.nn.Module):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear)
        else:
            state[f"{name}.weight"] = linear
    missing, _ = model.load_state_dict(state, strict=False)
    expected = {f"{name}.{plane}" for name in linears for plane in ("qweight", "qzeros", "scales")}
    assert set(missing) <= expected | {"lm_head.weight"}, missing
    model.tie_weights()
    return model


class ConfigWithoutGpu(transformers.AwqConfig):
    def post_init(self):
        """Its own looks for a GPU."""


def check(program, source, version, unpack, marker, planes_of_format):
    with tempfile.TemporaryDirectory() as directory:
        model, tokens_file, logits_file = (Path(directory) / name for name in ("model", "tokens.npy", "logits.npy"))
        quantize = [program, "quantize", source, "-o", model, "--method", "rtn", "--version", version, "--quiet"]
        subprocess.run(quantize, check=True)
        tokens = np.random.default_rng(SEED).integers(3, 4096, (1, TOKENS + 1), dtype=np.uint16)
        np.save(tokens_file, tokens)
        evaluate = [program, "evaluate", model, "--tokens", tokens_file, "--logits", logits_file]
        subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL)
        expected = np.load(logits_file)

        config = transformers.AutoConfig.from_pretrained(model)
        method = config.quantization_config["quant_method"]
        assert method == {"gemm": "awq"}.get(version, version), method
        if method == "awq":
            parsed = ConfigWithoutGpu.from_dict(config.quantization_config)
            assert (parsed.bits, parsed.group_size, parsed.zero_point) == (4, 128, True)
        del config.quantization_config  # transformers has no kernels for the CPU of its own

        tensors = load_file(str(model / "model.safetensors"))
        names = [name.removesuffix(f".{marker}") for name in tensors if name.endswith(f".{marker}")]
        assert len(names) == 42, len(names)
        planes = {name: {plane: tensors[f"{name}.{plane}"] for plane in planes_of_format} for name in names}
        inputs = torch.from_numpy(tokens[:, :-1].astype(np.int64))

        dense = build(config, tensors, {name: unpack(planes[name], 128) for name in names})
        compare(f"{version}, unpacked here", logits(dense, inputs), expected)
        ctx = awq.Context()
        weights = {name: ctx.unpack(version, planes[name], group_size=128) for name in names}
        packed = build(config, tensors, {name: AwqLinear.from_weight(ctx, weights[name]) for name in names})
        compare(f"{version}, through AwqLinear", logits(packed, inputs), expected)


def compare(what, ours, expected):
    difference = np.abs(ours - expected).max() / np.abs(expected).max()
    print(f"{what}: logits differ by {difference:.2g} of the largest")
    assert ours.shape == expected.shape and difference < 1e-4, difference


def main():
    program, source = sys.argv[1:3]
    check(program, source, "gemm", unpack_gemm, "qweight", ("qweight", "qzeros", "scales"))
    planes = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
    check(program, source, "compressed-tensors", unpack_compressed_tensors, "weight_packed", planes)


if __name__ == "__main__":
    main()
