"""Layers of the plain TAP, as formulas over a state dict with released names."""

import math

import torch

EPS = 1e-5


def linear(x, state, name):
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def layer_norm(x, state, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + EPS) ** 0.5 * state[f"{name}.weight"] + state[f"{name}.bias"]


def batch_norm(x, state, name, of_batch):
    """With the statistics of the batch, as in training, or with those that were kept."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if of_batch:
        mean = x.mean((0, 2, 3))
        variance = ((x - mean[:, None, None]) ** 2).mean((0, 2, 3))
    x = (x - mean[:, None, None]) / (variance + EPS)[:, None, None] ** 0.5
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def relu(x):
    return torch.where(x > 0, x, torch.zeros_like(x))


def softmax(scores):
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def attend(query, key, value, heads, bias=None):
    """Head by head; `bias` is [heads, queries, keys]."""
    width = query.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].transpose(-1, -2) / math.sqrt(width)
        if bias is not None:
            scores = scores + bias[head]
        out.append(softmax(scores) @ value[..., part])
    return torch.cat(out, -1)
