"""Small networks with a skip addition and a concatenation, and with attention; and the same by the papers' rules (papers.py)."""
# N images, C channels, S tokens, E width, P pixels of a patch

from dataclasses import dataclass
from math import erf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.explanation.lrp import papers
from tests.explanation.lrp.papers import Array, Division, numbers


@dataclass(frozen=True)
class Rules:
    """What the papers' side uses: a division for affine layers, and the stabiliser of other sums."""

    division: Division
    epsilon: float


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """`network` in float64 and eval mode, with biases and running statistics that matter."""
    generator = torch.Generator().manual_seed(seed)
    network.double()
    for name, x in [*network.named_parameters(), *network.named_buffers()]:
        if x.is_floating_point():
            values = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            scale = 1.0 if x.ndim < 2 else (2.0 / x[0].numel()) ** 0.5
            x.data = values.abs() + 0.5 if name.endswith("running_var") else values * scale
    return network.eval()


class SkipNet(nn.Module):
    """Convolution, norm, ReLU; convolution, norm, `+=`, ReLU; a 1 x 1 convolution beside max pooling; mean; linear."""

    def __init__(self, channels: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.side = nn.Conv2d(width, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(width + 2, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(x))
        out += x
        x = F.relu(out, inplace=True)
        x = torch.cat([self.side(x), F.max_pool2d(x, 3, 1, 1)], 1)
        logits: Tensor = self.head(F.relu(x).mean((2, 3)))
        return logits

    def by_papers(self, image: Tensor, target: int, rules: Rules) -> tuple[float, Array]:
        """The logit, and the relevance of `image` [C, H, W]."""
        shape = tuple(image.shape)
        x0 = numbers(image).ravel()
        W1, b1, _, shape1 = papers.convolution(self.conv1, shape)  # type: ignore[arg-type]
        W1, b1 = papers.fold(W1, b1, self.norm1)
        x1 = np.maximum(W1 @ x0 + b1, 0.0)
        W2, b2, _, _ = papers.convolution(self.conv2, shape1)
        W2, b2 = papers.fold(W2, b2, self.norm2)
        y2 = W2 @ x1 + b2
        x2 = np.maximum(y2 + x1, 0.0)
        W3, b3, _, shape3 = papers.convolution(self.side, shape1)
        y3 = W3 @ x2 + b3
        windows = _windows(shape1)
        pooled = np.array([max(x2[i] for i in window) for window in windows])
        x3 = np.maximum(np.concatenate([y3, pooled]), 0.0)
        area = shape3[1] * shape3[2]
        means = x3.reshape(-1, area).mean(1)
        W4, b4 = numbers(self.head.weight), numbers(self.head.bias)
        logits = W4 @ means + b4
        R4 = np.zeros_like(logits)
        R4[target] = logits[target]
        R_means = rules.division(means, W4, b4, R4)
        R3 = np.zeros_like(x3)
        for k, mean in enumerate(means):
            for i in range(k * area, (k + 1) * area):
                R3[i] = 0.0 if mean == 0.0 else x3[i] / (mean * area) * R_means[k]
        R2 = rules.division(x2, W3, b3, R3[: len(y3)]) + papers.winner(x2, windows, R3[len(y3) :])
        R_y2, R1 = papers.add(y2, x1, R2, rules.epsilon)
        R1 = R1 + rules.division(x1, W2, b2, R_y2)
        return float(logits[target]), rules.division(x0, W1, b1, R1).reshape(shape)


class TokenNet(nn.Module):
    """A vision transformer with one block: patches, a class token, positions, attention and an MLP, both with skips."""

    def __init__(self, side: int, patch: int, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.norm2(x))
        out: Tensor = self.head(self.norm3(x)[:, 0])
        return out

    def by_papers(self, image: Tensor, target: int, rules: Rules) -> tuple[float, Array]:
        """The logit, and the relevance of `image` [1, H, W]."""
        x0 = numbers(image).ravel()
        W0, b0, _, (width, rows, columns) = papers.convolution(self.patch, tuple(image.shape))  # type: ignore[arg-type]
        patches_SE = (W0 @ x0 + b0).reshape(width, rows * columns).T
        position = numbers(self.position[0])
        x1 = np.concatenate([numbers(self.token[0]), patches_SE]) + position
        y1, norms1 = _norm(self.norm1, x1)
        att = _Attention(self.attention, y1)
        x2 = x1 + att.out
        y2, norms2 = _norm(self.norm2, x2)
        first: Any = self.mlp[0]
        last: Any = self.mlp[2]
        hidden = y2 @ numbers(first.weight).T + numbers(first.bias)
        active = np.array([[h * 0.5 * (1.0 + erf(h / sqrt(2.0))) for h in row] for row in hidden])
        mlp = active @ numbers(last.weight).T + numbers(last.bias)
        x3 = x2 + mlp
        y3, norms3 = _norm(self.norm3, x3)
        W, b = numbers(self.head.weight), numbers(self.head.bias)
        logits = W @ y3[0] + b
        R = np.zeros_like(logits)
        R[target] = logits[target]

        norm = papers.epsilon(rules.epsilon)
        R3 = np.zeros_like(x3)
        R3[0] = norm(x3[0], norms3[0], numbers(self.norm3.bias), rules.division(y3[0], W, b, R))
        R2, R_mlp = papers.add(x2, mlp, R3, rules.epsilon)
        for s in range(len(x2)):
            R_active = rules.division(active[s], numbers(last.weight), numbers(last.bias), R_mlp[s])
            R_y2 = rules.division(y2[s], numbers(first.weight), numbers(first.bias), R_active)
            R2[s] += norm(x2[s], norms2[s], numbers(self.norm2.bias), R_y2)
        R1, R_att = papers.add(x1, att.out, R2, rules.epsilon)
        R_y1 = att.back(R_att, rules.division)
        for s in range(len(x1)):
            R1[s] += norm(x1[s], norms1[s], numbers(self.norm1.bias), R_y1[s])
        R_patches = R1[1:] * patches_SE / x1[1:]  # positions take the rest
        return float(logits[target]), rules.division(x0, W0, b0, R_patches.T.ravel()).reshape(image.shape)


class _Attention:
    """A `MultiheadAttention` of tokens [S, E], head by head."""

    def __init__(self, layer: nn.MultiheadAttention, x: Array) -> None:
        width, self.heads = x.shape[1], layer.num_heads
        self.x, self.size = x, width // self.heads
        W, b = numbers(layer.in_proj_weight), numbers(layer.in_proj_bias)
        self.parts = [(W[k * width : (k + 1) * width], b[k * width : (k + 1) * width]) for k in range(3)]
        self.q, self.k, self.v = (x @ W.T + b for W, b in self.parts)
        self.last = numbers(layer.out_proj.weight), numbers(layer.out_proj.bias)
        self.scores = [self._of(self.q, h) @ self._of(self.k, h).T / sqrt(self.size) for h in range(self.heads)]
        self.weights = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in self.scores]
        self.mixed = np.concatenate([w @ self._of(self.v, h) for h, w in enumerate(self.weights)], 1)
        self.out = self.mixed @ self.last[0].T + self.last[1]

    def _of(self, x: Array, head: int) -> Array:
        return x[:, head * self.size : (head + 1) * self.size]

    def back(self, R: Array, division: Division) -> Array:
        """Relevance of the tokens."""
        tokens = range(len(self.x))
        R_mixed = np.stack([division(self.mixed[s], *self.last, R[s]) for s in tokens])
        R_q, R_k, R_v = np.zeros_like(self.q), np.zeros_like(self.k), np.zeros_like(self.v)
        for h in range(self.heads):
            part = slice(h * self.size, (h + 1) * self.size)
            R_weights, R_v[:, part] = papers.product(self.weights[h], self._of(self.v, h), R_mixed[:, part])
            R_scores = np.stack([papers.softmax(self.scores[h][s], R_weights[s]) for s in tokens])
            R_q[:, part], R_kT = papers.product(self._of(self.q, h) / sqrt(self.size), self._of(self.k, h).T, R_scores)
            R_k[:, part] = R_kT.T
        out = np.zeros_like(self.x)
        for (W, b), R_part in zip(self.parts, (R_q, R_k, R_v), strict=True):
            out += np.stack([division(self.x[s], W, b, R_part[s]) for s in tokens])
        return out


def _norm(layer: nn.LayerNorm, x: Array) -> tuple[Array, list[Array]]:
    """Normalised tokens, and the matrix of each."""
    done = [papers.layer_norm(row, numbers(layer.weight), numbers(layer.bias), layer.eps) for row in x]
    return np.stack([y for y, _ in done]), [W for _, W in done]


def _windows(shape: tuple[int, int, int]) -> list[list[int]]:
    """Positions under each 3 x 3 window with stride 1, padding left out."""
    channels, height, width = shape
    return [
        [
            (c * height + v) * width + u
            for v in range(max(0, y - 1), min(height, y + 2))
            for u in range(max(0, x - 1), min(width, x + 2))
        ]
        for c in range(channels)
        for y in range(height)
        for x in range(width)
    ]


def images(seed: int, *shape: int) -> Tensor:
    """Random float64 images."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rules_of(method: str, options: dict[str, Any]) -> Rules:
    """The papers' side of a method's options."""
    if method == "lrp_epsilon":
        return Rules(papers.epsilon(options["epsilon"]), options["epsilon"])
    if method == "lrp_alphabeta":
        return Rules(papers.alphabeta(options["alpha"], options["beta"]), papers.TINY)
    return Rules(papers.gamma(options["gamma"]), papers.TINY)
