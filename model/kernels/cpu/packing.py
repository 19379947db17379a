"""Turns a Transformer's layers into those of the CPU kernels while it is being loaded."""

from collections import Counter

import torch
from torch import nn

from model.kernels.cpu.layers import CpuBlock, CpuEmbedding, CpuHead, CpuLayers, CpuLinear
from model.kernels.cpu.layout import WeightFormat
from model.kernels.cpu.library import CpuKernels
from model.layers.embedding import Embedding
from model.layers.linear import Linear
from model.layers.norm import RMSNorm
from model.transformer import Block, Transformer

# What CpuBlock computes. A block with more must not be packed as if it had no more.
_BLOCK_PARTS = {
    "attention_norm",
    "attention",
    "attention.qkv",
    "attention.output",
    "mlp_norm",
    "mlp",
    "mlp.gate_up",
    "mlp.down",
}


class Packer:
    """Replaces each layer as soon as its last weight is there, so no more is held twice than one and what the loader
    reads ahead.

    Memory of weights that are still to come is reserved but not yet touched, so it counts for nothing: a model that is
    quantised while it loads never takes its full size.
    """

    def __init__(self, model: Transformer, kernels: CpuKernels, weight_format: WeightFormat) -> None:
        self._model = model
        self._kernels = kernels
        self._format = weight_format
        self._num_missing = Counter(_layer_of(name) for name, _ in model.named_parameters())

    def filled(self, parameter: str) -> None:
        """Told by the loader that all of this parameter has been read."""
        layer = _layer_of(parameter)
        self._num_missing[layer] -= 1
        if self._num_missing[layer] > 0:
            return
        parent, _, name = layer.rpartition(".")
        self._model.get_submodule(parent).add_module(name, self._packed(self._model.get_submodule(layer)))
        # Activations are float32, whatever the weights are.
        self._model.dtype = torch.float32
        blocks = [block for block in self._model.layers if isinstance(block, CpuBlock)]
        if len(blocks) == self._model.config.num_layers:
            self._model.layers = nn.ModuleList([CpuLayers(self._kernels, blocks)])
        if self._num_missing.total() == 0:
            self._give_the_last_norm_to_the_head()

    def _give_the_last_norm_to_the_head(self) -> None:
        """So that only rows whose logits are wanted go through it, within the product."""
        head, norm = self._model.head or self._model.embedding, self._model.norm
        assert isinstance(head, CpuHead | CpuEmbedding)
        assert isinstance(norm, RMSNorm)
        head.product.begin_with(norm)
        self._model.add_module("norm", nn.Identity())

    def _packed(self, layer: nn.Module) -> nn.Module:
        if isinstance(layer, Block):
            names = {name for name, _ in layer.named_modules() if name}
            assert names == _BLOCK_PARTS, f"the kernels don't know {names - _BLOCK_PARTS}"
            parts = (layer.attention_norm, layer.attention, layer.mlp_norm, layer.mlp)
            return CpuBlock(self._kernels, self._format, *parts, self._model.config.activation)
        if isinstance(layer, Embedding):
            return CpuEmbedding(self._kernels, self._format, layer)
        if isinstance(layer, RMSNorm):
            return layer
        assert isinstance(layer, Linear), f"no kernel for {type(layer).__name__}"
        return CpuHead(self._kernels, self._format, layer)


def packed_bytes(model: Transformer) -> int:
    """What the weights of a packed model take."""
    products: list[CpuLinear] = []
    for module in model.modules():
        if isinstance(module, CpuBlock):
            products += module.products
        elif isinstance(module, CpuEmbedding | CpuHead):
            products.append(module.product)
    return sum(product.weight.num_bytes for product in products)


def _layer_of(parameter: str) -> str:
    """layers.3 for layers.3.mlp.down.weight, embedding for embedding.weight."""
    parts = parameter.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]
