"""Vision transformer (Dosovitskiy et al., arXiv:2010.11929); ViT-B/16 has 86,567,656 parameters for 1000 classes.

Modules are named as in the widely used weight files, so these load by name.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """Attention, then a perceptron, each after a layer norm and added to its input."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    def __init__(self, tokens: int, width: int, depth: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02))
        self.layers = nn.Sequential(
            OrderedDict((f"encoder_layer_{n}", Layer(width, heads, inner, dropout)) for n in range(depth))
        )
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(x + self.pos_embedding))


class VisionTransformer(nn.Module):
    """[b, inputs, *image] to logits [b, outputs]; `image` is fixed and a multiple of `patch` on every axis."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        image: Sequence[int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        inner: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if len(image) == 2 else nn.Conv3d
        self.conv_proj = convolution(inputs, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        tokens = math.prod(n // patch for n in image) + 1
        self.encoder = Encoder(tokens, width, depth, heads, inner, dropout)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.heads(self.encoder(tokens)[:, 0])
