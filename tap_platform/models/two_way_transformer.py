"""The transformer in which tokens read an image and the image reads them.

A prompt has few tokens and an image many cells. In a product of both, a projection of the cells can
move to the tokens, `(W cell) · token = cell · (Wᵀ token)`, and a mean of projected cells is the
projection of their mean; so cells that differ from prompt to prompt are never projected, and what
depends on the image or on places alone is computed once for all prompts.

Source: Segment Anything, appendix A ("Lightweight mask decoder").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tap_platform.models.layers import Mlp


class Projection(nn.Linear):
    """A linear layer whose weights can also be applied head by head.

    It does so inside its call: a strategy that shards parameters gathers them for calls.
    """

    def forward(
        self, x: Tensor, by_head: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        """Map [..., in] to [..., out], or give input, weight and bias to `by_head`."""
        return super().forward(x) if by_head is None else by_head(x, self.weight, self.bias)


def _backwards(x: Tensor, weight: Tensor, _: Tensor) -> Tensor:
    """Take [M, heads, T, D] back through the weight of a projection to heads, [M, heads, T, C]."""
    return torch.einsum("mhtd,hdc->mhtc", x, weight.unflatten(0, (x.shape[1], -1)))


def _into_heads(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Project what each head has read, [M, heads, T, C], and join the heads, [M, T, heads * D]."""
    weight = weight.unflatten(0, (x.shape[1], -1))
    return torch.einsum("mhtc,hdc->mthd", x, weight).flatten(2) + bias


def _out_of_heads(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Project [M, heads, T, D] to [M, heads, T, C]; each head brings its share of the bias."""
    heads = x.shape[1]
    return torch.einsum("mhtd,chd->mhtc", x, weight.unflatten(1, (heads, -1))) + bias / heads


class Attention(nn.Module):
    """Multi-head attention with a projection for each input."""

    def __init__(self, dim: int, heads: int, inner_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (inner_dim // heads) ** -0.5
        self.q_proj = Projection(dim, inner_dim)
        self.k_proj = Projection(dim, inner_dim)
        self.v_proj = Projection(dim, inner_dim)
        self.proj = Projection(inner_dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from queries [M, Q, C] to keys and values [M, K, C] each; the result is [M, Q, C].

        Keys and values of one row are those of all queries.
        """
        return self.attend(query, self.k_proj(key), self.v_proj(value))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to keys and values that are projected, [M, K, inner_dim] or one row for all."""
        q, k, v = map(self.split, (self.q_proj(query), key, value))
        if len(k) == 1:  # many rows of queries are one long row
            q = q.transpose(0, 1).flatten(1, 2)[None]
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(*query.shape[:2], self.proj.in_features))

    def start_by_likeness(self) -> None:
        """Give queries and keys the same orthogonal projection, so that like attends to like.

        Attention between codes of places then begins as nearness: a prompt reads the image where it
        points from the first step on, and a short training from scratch finds regions at all.
        """
        nn.init.orthogonal_(self.q_proj.weight)
        self.k_proj.load_state_dict(self.q_proj.state_dict())

    def split(self, x: Tensor) -> Tensor:
        """Cut [M, N, inner_dim] into heads, [M, heads, N, D]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class TokenToImage(Attention):
    """Tokens read the cells of an image."""

    def forward(  # type: ignore[override]
        self, query: Tensor, keys: Tensor, values: Tensor | None, image: Tensor | None
    ) -> Tensor:
        """Attend from tokens to cells: to their values, or to an image that is not projected.

        Args:
            query: [M, T, C].
            keys: projected keys of the cells, [M, N, inner_dim], or one row for all; with an image,
                those of its position code.
            values: projected values of the cells, like `keys`; None with an image.
            image: [M, N, C] or None.

        Returns:
            [M, T, C].
        """
        if values is not None:
            return self.attend(query, keys, values)
        assert image is not None
        q = self.split(self.q_proj(query)) * self.scale
        weights = _products(q, keys, self.k_proj, image).softmax(-1)
        read = (weights.flatten(1, 2) @ image).unflatten(1, q.shape[1:3])
        return self.proj(self.v_proj(read, _into_heads))


class ImageToToken(Attention):
    """The cells of an image read tokens."""

    def forward(  # type: ignore[override]
        self, queries: Tensor, image: Tensor | None, key: Tensor, value: Tensor
    ) -> Tensor:
        """Attend from cells to tokens.

        Args:
            queries: projected queries of the cells, [M, N, inner_dim], or one row for all; with an
                image, those of its position code.
            image: [M, N, C] or None.
            key: [M, T, C].
            value: [M, T, C].

        Returns:
            [M, N, C].
        """
        k, v = self.split(self.k_proj(key)) * self.scale, self.split(self.v_proj(value))
        weights = _products(k, queries, self.q_proj, image).softmax(2)
        return weights.flatten(1, 2).transpose(1, 2) @ self.proj(v, _out_of_heads).flatten(1, 2)


def _products(x: Tensor, cells: Tensor, projection: Projection, image: Tensor | None) -> Tensor:
    """Products of tokens in heads, [M, heads, T, D], and cells, head by head.

    Cells are projected, [M, N, heads * D] or one row for all, plus the projection of an image,
    [M, N, C], which is not carried out; the result is [M, heads, T, N].
    """
    cells = cells.unflatten(-1, (x.shape[1], -1))
    if len(cells) == 1:
        products = torch.einsum("mhtd,nhd->mhtn", x, cells[0])
    else:
        products = torch.einsum("mhtd,mnhd->mhtn", x, cells)
    if image is None:
        return products
    own = projection(x, _backwards).flatten(1, 2) @ image.transpose(1, 2)
    return own.unflatten(1, x.shape[1:3]) + products


class Cells(NamedTuple):
    """What a block knows of the cells of an image before it sees a prompt.

    In the first block that is all: its image is the encoder's. Later images are another one for
    each prompt; then keys and queries are those of the position code, and there is no more.
    """

    keys: Tensor
    """For tokens that read the image, [B, N, inner_dim]; B is 1 for the code."""
    queries: Tensor
    """For the image that reads tokens, like `keys`."""
    values: Tensor | None = None
    """For tokens that read the image, [B, N, inner_dim]."""
    image: Tensor | None = None
    """[B, N, C]."""

    def of(self, image_index: Tensor) -> Cells:
        """The cells of each prompt's image; a single row is not copied, for it serves all."""

        def take(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x[image_index]

        values, image = (None if x is None else take(x) for x in (self.values, self.image))
        return Cells(take(self.keys), take(self.queries), values, image)


class TwoWayBlock(nn.Module):
    """Self-attention, tokens to image, an MLP on tokens, image to tokens; post-norm.

    The first block's self-attention uses neither position codes nor a residual.
    """

    def __init__(self, dim: int, heads: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = TokenToImage(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 8 * dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = ImageToToken(dim, heads, dim // 2)
        self.norm4 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.cross_attn_token_to_image.start_by_likeness()
        self.cross_attn_image_to_token.start_by_likeness()

    def prepare(self, image: Tensor, image_code: Tensor) -> Cells:
        """Compute what no prompt changes, from images [B, N, C] and their position code [N, C]."""
        reader, writer = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        if not self.first:
            return Cells(reader.k_proj(image_code[None]), writer.q_proj(image_code[None]))
        places = image + image_code
        return Cells(reader.k_proj(places), writer.q_proj(places), reader.v_proj(image), image)

    def forward(
        self, tokens: Tensor, token_code: Tensor, cells: Cells, image: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update tokens and image.

        Args:
            tokens: [M, T, C].
            token_code: added to tokens in queries and keys, [M, T, C].
            cells: what `prepare` gave, of each prompt's image.
            image: what the block before gave, [M, N, C]; None in the first block.

        Returns:
            The tokens [M, T, C] and the image as each prompt sees it [M, N, C].
        """
        tokens = self.norm1(self._attend_to_self(tokens, token_code))
        read = self.cross_attn_token_to_image(tokens + token_code, cells.keys, cells.values, image)
        tokens = self.norm2(tokens + self.dropout(read))
        tokens = self.norm3(tokens + self.dropout(self.mlp(tokens)))
        written = self.cross_attn_image_to_token(cells.queries, image, tokens + token_code, tokens)
        return tokens, self.norm4((cells.image if image is None else image) + written)

    def _attend_to_self(self, tokens: Tensor, token_code: Tensor) -> Tensor:
        if self.first:
            return self.self_attn(tokens, tokens, tokens)
        places = tokens + token_code
        return tokens + self.dropout(self.self_attn(places, places, tokens))


class PreparedImages(NamedTuple):
    """What the transformer computes of images once, whatever the prompts."""

    blocks: tuple[Cells, ...]
    """What each block knows of the images."""
    keys: Tensor
    """Keys of the position code for the last look, [1, N, inner_dim]."""

    def of(self, number: int) -> PreparedImages:
        """One of the images alone."""
        row = torch.tensor([number], device=self.keys.device)
        return self._replace(blocks=tuple(cells.of(row) for cells in self.blocks))


class TwoWayTransformer(nn.Module):
    """A few two-way blocks, then a last look from the tokens to the image."""

    def __init__(self, dim: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, heads, dropout, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = TokenToImage(dim, heads, dim // 2)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def prepare(self, image: Tensor, image_code: Tensor) -> PreparedImages:
        """Compute what no prompt changes.

        Args:
            image: [B, N, C].
            image_code: the position code of the cells, [N, C].
        """
        blocks = cast("Iterable[TwoWayBlock]", self.blocks)
        cells = tuple(block.prepare(image, image_code) for block in blocks)
        return PreparedImages(cells, self.final_attn_token_to_image.k_proj(image_code[None]))

    def forward(
        self, tokens: Tensor, images: PreparedImages, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and images read each other.

        Args:
            tokens: [M, T, C]; they are also the tokens' position code.
            images: what `prepare` gave of B images.
            image_index: the image of each row of tokens, [M].

        Returns:
            The tokens [M, T, C] and the image as each of them sees it [M, N, C].
        """
        token_code = tokens
        image: Tensor | None = None
        for block, cells in zip(self.blocks, images.blocks, strict=True):
            tokens, image = block(tokens, token_code, cells.of(image_index), image)
        assert image is not None
        read = self.final_attn_token_to_image(tokens + token_code, images.keys, None, image)
        return self.norm(tokens + self.dropout(read)), image
