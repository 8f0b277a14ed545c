"""One linear layer, from activations to a 4-bit product, and what AWQ gains over plain rounding.

    AWQ_LIBRARY=build/libawq.so PYTHONPATH=examples/python python examples/python/quantize_layer.py
"""

import awq
import numpy as np


def activations(random: np.random.Generator, tokens: int, channels: int) -> np.ndarray:
    """As in large language models, a few channels are much louder than the rest."""
    x = random.standard_normal((tokens, channels), dtype=np.float32)
    x[:, [7, 100]] *= 40
    return x


def main() -> None:
    outputs, inputs = 256, 256
    random = np.random.default_rng(1)
    w = random.standard_normal((outputs, inputs), dtype=np.float32) * 0.1

    with awq.Context() as ctx:
        calibration = ctx.calibration(channels=inputs)
        for _ in range(4):
            calibration.observe(activations(random, 128, inputs))
        search = ctx.search(calibration, [w])
        print(f"alpha {search.alpha:.2f}: loss {search.loss:.3g} instead of {search.loss_identity:.3g}")

        fresh = activations(random, 64, inputs)
        exact = fresh @ w.T
        for name, weight in (("plain rounding", ctx.quantize(w)), ("AWQ", ctx.quantize(w, search))):
            y = ctx.linear(weight)(fresh)
            print(f"{name}: relative error {np.linalg.norm(y - exact) / np.linalg.norm(exact):.4f}")


if __name__ == "__main__":
    main()
