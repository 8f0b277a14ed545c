"""Round every linear of a safetensors file, or of a model directory, to 4 bits and pack it as AutoAWQ's "gemm".

    python examples/python/quantize_checkpoint.py MODEL OUT [--group-size 128]

Nothing but weights is looked at: no activations, so this is plain rounding, and no architecture.  Linears are the
matrices called "*.weight" that are no embedding and no head.  What "gemm" cannot hold is copied as it is.  The host
application's ``awq quantize`` does better.
"""

import argparse
import json
from pathlib import Path

import awq

KEPT = ("embed", "lm_head", "wte", "wpe")


def is_linear(name: str, tensor: awq.Tensor) -> bool:
    return name.endswith(".weight") and len(tensor.shape) == 2 and not any(part in name for part in KEPT)


def pack_linear(ctx: awq.Context, w: awq.Tensor, group_size: int):
    """The layer's planes, or None where the format cannot hold them."""
    try:
        with ctx.quantize(w, quantizer=awq.Quantizer(group_size=group_size)) as weight:
            return ctx.pack(weight, "gemm")
    except awq.Error as error:
        if error.status != awq.Status.UNSUPPORTED:
            raise
        print(f"  kept: {error}")
        return None


def config_of(model: Path, kept: list, group_size: int) -> "str | None":
    """The model's config.json, with what loaders need to know of the quantisation."""
    path = model / "config.json"
    if not path.exists():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": ["lm_head", *kept],
    }
    return json.dumps(config, indent=2)


def quantize(source: Path, target: Path, group_size: int) -> int:
    """Write the packed model; how many linears it has."""
    packed_count, kept = 0, []
    with awq.Context() as ctx, ctx.checkpoint(source) as model, ctx.checkpoint_writer(target) as writer:
        for name in model:
            tensor = model[name]
            packed = None
            if is_linear(name, tensor):
                print(name, list(tensor.shape))
                packed = pack_linear(ctx, tensor, group_size)
                if packed is None:
                    kept.append(name.removesuffix(".weight"))
            if packed is None:
                writer.add(name, tensor)
            else:
                packed_count += 1
                for plane, view in packed.items():
                    writer.add(f"{name.removesuffix('.weight')}.{plane}", view)
            model.release(name)
        config = config_of(source, kept, group_size)
        if config is not None:
            writer.add_file("config.json", config)
    return packed_count


def main() -> None:
    parser = argparse.ArgumentParser(description="Round the linears of a model to 4 bits and pack them.")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--group-size", type=int, default=128)
    arguments = parser.parse_args()
    count = quantize(arguments.model, arguments.out, arguments.group_size)
    print(f"{count} linears packed into {arguments.out}")


if __name__ == "__main__":
    main()
