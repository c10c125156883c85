"""The released TAP written out once more: slow, plain, after the description of the released model.

Functions over a state dict with released names. Nothing is shared with the product: attention is a
loop over heads, windows are a loop over tiles, norms and activations are formulas. Images are
B, G, R with colours last, as the released model reads them.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from plain_layers import attend, batch_norm, gelu, layer_norm, linear, relu, softmax
from torch.nn.functional import conv2d, conv_transpose2d, interpolate

MEAN_BGR = (103.53, 116.28, 123.675)
STD_BGR = (57.375, 57.12, 58.395)
BEGIN, END = 1, 2


class Sizes(NamedTuple):
    """What the shapes of the weights do not tell."""

    image_size: int = 1024
    patch: int = 16
    window: int = 16
    encoder_heads: int = 12
    decoder_heads: int = 8
    text_heads: int = 8
    text_length: int = 40


class Answer(NamedTuple):
    masks: torch.Tensor
    iou: torch.Tensor
    semantic_tokens: torch.Tensor
    mask_tokens: torch.Tensor
    concept_embeddings: torch.Tensor


# ------------------------------------------------------------------ image


def preprocess(image, size):
    """An image [h, w, 3] uint8 to the frame [size, size, 3] uint8 and the scale of coordinates."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_height, new_width = math.floor(height * scale + 0.5), math.floor(width * scale + 0.5)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    frame = np.zeros((size, size, 3), np.uint8)
    for channel, mean in enumerate(MEAN_BGR):
        frame[:, :, channel] = int(mean)
    frame[:new_height, :new_width] = np.asarray(resized)
    return frame, scale, (new_height, new_width)


def postprocess(low_resolution, size, visible, original):
    """Mask logits [M, h, w] to booleans [M, H, W] at the original size."""
    logits = interpolate(low_resolution[None], (size, size), mode="bilinear", align_corners=False)
    logits = logits[:, :, : visible[0], : visible[1]]
    return interpolate(logits, original, mode="bilinear", align_corners=False)[0] > 0


def normalize(images, state):
    """[B, H, W, 3] to [B, 3, H, W]."""
    return ((images - state["pixel_mean"]) * state["pixel_rsig"]).permute(0, 3, 1, 2)


def window_bias(state, name, window):
    table = state[f"{name}.rel_pos_embed.weight"]
    index = torch.zeros(window**2, window**2, dtype=torch.int64)
    for i in range(window**2):
        for j in range(window**2):
            dy, dx = i // window - j // window, i % window - j % window
            index[i, j] = (dy + window - 1) * (2 * window - 1) + dx + window - 1
    assert torch.equal(index, state[f"{name}.rel_pos_embed.index"])
    return table[:, index]


def window_attention(tokens, state, name, sizes):
    """Attention inside every tile of a map [B, H, W, C], one tile after the other."""
    w, dim = sizes.window, tokens.shape[-1]
    bias = window_bias(state, name, w)
    out = torch.zeros_like(tokens)
    for top in range(0, tokens.shape[1], w):
        for left in range(0, tokens.shape[2], w):
            tile = tokens[:, top : top + w, left : left + w].reshape(len(tokens), w * w, dim)
            query, key, value = linear(tile, state, f"{name}.qkv").split(dim, -1)
            seen = attend(query, key, value, sizes.encoder_heads, bias)
            seen = linear(seen, state, f"{name}.proj").reshape(len(tokens), w, w, dim)
            out = out.index_put(
                (
                    torch.arange(len(tokens))[:, None, None],
                    torch.arange(top, top + w)[:, None],
                    torch.arange(left, left + w),
                ),
                seen,
            )
    return out


def encoder_block(x, state, name, sizes):
    x = x + window_attention(layer_norm(x, state, f"{name}.norm1"), state, f"{name}.attn", sizes)
    hidden = gelu(linear(layer_norm(x, state, f"{name}.norm2"), state, f"{name}.mlp.fc1"))
    return x + linear(hidden, state, f"{name}.mlp.fc2")


def bottleneck(x, state, name, of_batch):
    """On a map with channels first."""
    y = conv2d(x, state[f"{name}.conv1.weight"])
    y = gelu(batch_norm(y, state, f"{name}.norm1", of_batch))
    y = conv2d(y, state[f"{name}.conv2.weight"], padding=1)
    y = gelu(batch_norm(y, state, f"{name}.norm2", of_batch))
    y = conv2d(y, state[f"{name}.conv3.weight"])
    return x + batch_norm(y, state, f"{name}.norm3", of_batch)


def neck(x, state, of_batch):
    name = "image_encoder.neck"
    x = conv2d(x, state[f"{name}.lateral_conv.0.0.weight"])
    x = batch_norm(x, state, f"{name}.lateral_conv.0.1", of_batch)
    x = conv2d(x, state[f"{name}.output_conv.0.0.weight"], padding=1)
    return batch_norm(x, state, f"{name}.output_conv.0.1", of_batch)


def patches(pixels, state, sizes):
    """Every patch through one matrix: [B, 3, H, W] to [B, H / patch, W / patch, C]."""
    weight = state["image_encoder.patch_embed.proj.weight"].flatten(1)
    side = sizes.patch
    rows = []
    for top in range(0, pixels.shape[2], side):
        row = [
            pixels[:, :, top : top + side, left : left + side].flatten(1) @ weight.T
            for left in range(0, pixels.shape[3], side)
        ]
        rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1) + state["image_encoder.patch_embed.proj.bias"]


def encode(images, state, sizes, of_batch=False):
    """Frames [B, S, S, 3] to features [B, C, S / patch, S / patch]."""
    x = patches(normalize(images, state), state, sizes)
    x = x + state["image_encoder.pos_embed.weight"].reshape(x.shape[1:])
    names = {name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")}
    depth = len(names)
    for i in range(depth):
        x = encoder_block(x, state, f"image_encoder.blocks.{i}", sizes)
        if i == depth - 1:
            x = layer_norm(x, state, "image_encoder.norm")
        if (i + 1) % (depth // 4) == 0:
            name = f"image_encoder.cross_conv.{i // (depth // 4)}"
            x = bottleneck(x.permute(0, 3, 1, 2), state, name, of_batch).permute(0, 2, 3, 1)
    return neck(x.permute(0, 3, 1, 2), state, of_batch)


# ------------------------------------------------------------------ prompts


def prompt_points(boxes=None, points=None):
    """Boxes [M, 4] and points [M, k, 3] to places [M, P, 2] and labels [M, P]; box tokens first."""
    places, labels = [], []
    if boxes is not None:
        places.append(boxes.reshape(-1, 2, 2))
        labels.append(torch.tensor([[2, 3]]).expand(len(boxes), 2))
    if points is not None:
        places.append(points[:, :, :2])
        labels.append(points[:, :, 2].long())
    return torch.cat(places, 1), torch.cat(labels, 1)


def fourier(places, state):
    """Places in [0, 1], (x, y)."""
    angles = 2 * 3.1415926 * ((2 * places - 1) @ state["prompt_encoder.coord_matrix"])
    return torch.cat((torch.sin(angles), torch.cos(angles)), -1)


def encode_prompts(places, labels, state, sizes):
    places = ((places + 0.5) / sizes.image_size).clip(0, 1)
    code = fourier(places, state) * (labels != 4)[..., None]
    return code + state["prompt_encoder.point_embed.weight"][labels]


def image_places(grid, state):
    centres = [
        [(column + 0.5) / grid[1], (row + 0.5) / grid[0]]
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    return fourier(torch.tensor(centres).to(state["pixel_mean"]), state)


# ------------------------------------------------------------------ image decoder


def cross(query, key, value, state, name, heads):
    query, key, value = (
        linear(x, state, f"{name}.{projection}_proj")
        for x, projection in ((query, "q"), (key, "k"), (value, "v"))
    )
    return linear(attend(query, key, value, heads), state, f"{name}.proj")


def two_way(tokens, image, places, state, heads, kept=1.0):
    """`kept` is what dropout leaves of a branch, at the places where there is dropout."""
    name = "image_decoder.transformer"
    start = tokens
    depth = len({key.split(".")[3] for key in state if key.startswith(f"{name}.blocks.")})
    for i in range(depth):
        block = f"{name}.blocks.{i}"
        if i == 0:
            tokens = cross(tokens, tokens, tokens, state, f"{block}.self_attn", heads)
        else:
            q = tokens + start
            tokens = tokens + kept * cross(q, q, tokens, state, f"{block}.self_attn", heads)
        tokens = layer_norm(tokens, state, f"{block}.norm1")
        read = f"{block}.cross_attn_token_to_image"
        tokens = tokens + kept * cross(tokens + start, image + places, image, state, read, heads)
        tokens = layer_norm(tokens, state, f"{block}.norm2")
        hidden = relu(linear(tokens, state, f"{block}.mlp.fc1"))
        tokens = layer_norm(
            tokens + kept * linear(hidden, state, f"{block}.mlp.fc2"), state, f"{block}.norm3"
        )
        write = f"{block}.cross_attn_image_to_token"
        image = image + cross(image + places, tokens + start, tokens, state, write, heads)
        image = layer_norm(image, state, f"{block}.norm4")
    read = f"{name}.final_attn_token_to_image"
    tokens = tokens + kept * cross(tokens + start, image + places, image, state, read, heads)
    return layer_norm(tokens, state, f"{name}.norm"), image


def head(x, state, name):
    x = relu(linear(x, state, f"{name}.layers.0"))
    x = relu(linear(x, state, f"{name}.layers.1"))
    return linear(x, state, f"{name}.layers.2")


def upscale(image, state):
    name = "image_decoder.output_conv"
    x = conv_transpose2d(image, state[f"{name}.0.weight"], state[f"{name}.0.bias"], stride=2)
    x = layer_norm(x.permute(0, 2, 3, 1), state, f"{name}.1").permute(0, 3, 1, 2)
    x = conv_transpose2d(gelu(x), state[f"{name}.3.weight"], state[f"{name}.3.bias"], stride=2)
    return gelu(x)


def decode(features, places, labels, image_index, state, sizes, kept=1.0):
    """Prompts one by one, each with its own copy of its image."""
    answers = [
        decode_one(features[image], places[i : i + 1], labels[i : i + 1], state, sizes, kept)
        for i, image in enumerate(image_index.tolist())
    ]
    return Answer(*map(torch.cat, zip(*answers, strict=True)))


def decode_one(features, places, labels, state, sizes, kept):
    name = "image_decoder"
    grid = features.shape[1:]
    tables = [state[f"{name}.{t}.weight"] for t in ("sem_tokens", "iou_token", "mask_tokens")]
    prompts = encode_prompts(places, labels, state, sizes)
    tokens = torch.cat((torch.cat(tables)[None], prompts), 1)
    image = features.flatten(1).T[None]
    codes = image_places(grid, state)
    tokens, image = two_way(tokens, image, codes, state, sizes.decoder_heads, kept)
    semantic, iou, mask = tokens[:, 0:4], tokens[:, 4], tokens[:, 5:9]
    pixels = upscale(image.transpose(1, 2).reshape(1, -1, *grid), state)
    filters = [head(mask[:, i], state, f"{name}.mask_pred.{i}") for i in range(4)]
    masks = torch.stack([(f[:, :, None, None] * pixels).sum(1) for f in filters], 1)
    return (
        masks,
        head(iou, state, f"{name}.iou_pred"),
        semantic,
        mask,
        head(semantic, state, f"{name}.sem_pred"),
    )


def select(iou, labels):
    """The index of the answer: 0 if the first point is a box's corner, else the best of 1 to 3."""
    offset = torch.zeros_like(iou)
    is_box = labels[:, 0] == 2
    offset[is_box, 0] = 500
    offset[~is_box, 0] = -500
    return (iou + offset).argmax(1)


# ------------------------------------------------------------------ text


def rotate(x, heads):
    """Turn adjacent pairs of every head by the position times 10000^(-2i / width)."""
    length, width = x.shape[1], x.shape[2] // heads
    speeds = torch.tensor([10000 ** (-2 * i / width) for i in range(width // 2)]).double()
    angles = torch.arange(length).double()[:, None] * speeds
    turns = torch.complex(angles.cos(), angles.sin())
    pairs = torch.view_as_complex(x.double().reshape(len(x), length, heads, width // 2, 2))
    turned = torch.view_as_real(pairs * turns[:, None])
    return turned.reshape(x.shape).to(x.dtype)


def causal(x, state, name, heads):
    dim, length = x.shape[2], x.shape[1]
    query, key, value = linear(x, state, f"{name}.qkv").split(dim, -1)
    future = torch.ones(length, length).triu(1).bool()
    bias = torch.zeros(length, length, dtype=x.dtype).masked_fill(future, -math.inf)
    seen = attend(rotate(query, heads), rotate(key, heads), value, heads, [bias] * heads)
    return linear(seen, state, f"{name}.proj")


def text_logits(semantic_token, words, state, sizes):
    """[M, C] and [M, T] to [M, T, V]: entry t predicts word t + 1."""
    name = "text_decoder.transformer"
    prompt = semantic_token @ state["text_decoder.encoder.weight"].T
    x = torch.cat((prompt[:, None], state[f"{name}.tok_embeddings.weight"][words]), 1)
    depth = len({key.split(".")[3] for key in state if key.startswith(f"{name}.blocks.")})
    for i in range(depth):
        block = f"{name}.blocks.{i}"
        normed = layer_norm(x, state, f"{block}.norm1")
        x = x + causal(normed, state, f"{block}.attn", sizes.text_heads)
        normed = layer_norm(x, state, f"{block}.norm2")
        x = x + linear(gelu(linear(normed, state, f"{block}.mlp.fc1")), state, f"{block}.mlp.fc2")
    x = layer_norm(x, state, f"{name}.norm")
    return (x @ state[f"{name}.text_proj.weight"].T)[:, 1:]


def caption(semantic_token, state, sizes):
    """The likeliest words of one region [1, C], without BEGIN, up to END."""
    words = [BEGIN]
    while len(words) < sizes.text_length - 1:
        logits = text_logits(semantic_token, torch.tensor([words]), state, sizes)
        words.append(int(logits[0, -1].argmax()))
        if words[-1] == END:
            break
    return words[1:]


# ------------------------------------------------------------------ concepts


def concept_probabilities(embeddings, columns):
    """Embeddings [M, D] and columns [D, N] that carry the logit scale to [M, N]."""
    unit = embeddings / embeddings.norm(dim=-1, keepdim=True)
    return softmax(unit @ columns)
