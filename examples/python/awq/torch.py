"""A drop-in module for PyTorch whose product runs through libawq.

    from awq.torch import AwqLinear, replace_linears

    model.layers[0].mlp.down_proj = AwqLinear.from_linear(ctx, model.layers[0].mlp.down_proj)
    replace_linears(model, ctx, ctx.checkpoint("Llama-3.2-1B-AWQ"))   # every linear that is packed there

The buffers have the names and shapes of AutoAWQ's "gemm" modules, so state dicts of such checkpoints load into it.
"""

from typing import List, Mapping, Optional

import torch

from ._context import Context
from ._search import Quantizer, Search
from ._tensor import Tensor
from ._weight import Weight

_PLANES = ("qweight", "qzeros", "scales")


class AwqLinear(torch.nn.Module):
    """y = x W^T + bias with a 4-bit W, for inference on the CPU."""

    def __init__(self, context: Context, planes: Mapping[str, torch.Tensor], bias: Optional[torch.Tensor] = None):
        super().__init__()
        for name in _PLANES:
            self.register_buffer(name, planes[name])
        self.register_buffer("bias", bias)
        self._context, self._prepared = context, None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())  # copies into the buffers

    @classmethod
    def from_weight(cls, context: Context, weight: Weight, bias: Optional[torch.Tensor] = None) -> "AwqLinear":
        """From a quantised weight whose input scale, if it had one, was folded."""
        with context.pack(weight, "gemm") as packed:
            planes = {name: torch.from_numpy(packed[name].numpy().copy()) for name in _PLANES}
        return cls(context, planes, bias)

    @classmethod
    def from_linear(
        cls,
        context: Context,
        linear: torch.nn.Linear,
        search: Optional[Search] = None,
        quantizer: Optional[Quantizer] = None,
    ) -> "AwqLinear":
        """Quantise a layer of PyTorch."""
        bias = None if linear.bias is None else linear.bias.detach()
        return cls.from_weight(context, context.quantize(linear.weight, search, quantizer), bias)

    @property
    def in_features(self) -> int:
        return self.qweight.shape[0]

    @property
    def out_features(self) -> int:
        return self.scales.shape[1]

    def _forget(self) -> None:
        self._prepared = None

    def _apply(self, *arguments, **options):
        self._forget()  # the buffers may move, or change their type
        return super()._apply(*arguments, **options)

    def _linear(self):
        """The layer as the library runs it, made of the buffers at the first use."""
        if self._prepared is None:
            weight = self._context.unpack("gemm", {name: getattr(self, name) for name in _PLANES})
            self._prepared = self._context.linear(weight, bias=self.bias)
        return self._prepared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(*x.shape[:-1], self.out_features, dtype=x.dtype)
        self._linear()(x.contiguous(), out=y)
        return y

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def replace_linears(model: torch.nn.Module, context: Context, checkpoint: Mapping[str, Tensor]) -> List[str]:
    """Replace each linear of ``model`` that ``checkpoint`` holds packed as "gemm"; returns their names."""
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    replaced = [name for name in linears if f"{name}.qweight" in checkpoint]
    for name in replaced:
        parent, _, child = name.rpartition(".")
        planes = {plane: torch.from_numpy(checkpoint[f"{name}.{plane}"].numpy().copy()) for plane in _PLANES}
        setattr(model.get_submodule(parent), child, AwqLinear(context, planes, model.get_submodule(name).bias))
    return replaced
