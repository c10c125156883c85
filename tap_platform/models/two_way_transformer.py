"""The transformer in which tokens read an image and the image reads them.

Source: Segment Anything, appendix A ("Lightweight mask decoder").
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tap_platform.models.layers import Mlp


class Attention(nn.Module):
    """Multi-head attention with a projection for each input."""

    def __init__(self, dim: int, heads: int, inner_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.proj = nn.Linear(inner_dim, dim)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_rows: Tensor | None = None,
        key_rows: Tensor | None = None,
    ) -> Tensor:
        """Attend from queries to keys.

        An input that many rows share is given once with the rows that want it, and projected once.

        Args:
            query: [M, Q, C], or [B, Q, C] with `query_rows`.
            key: [M, K, C], or [B, K, C] with `key_rows`.
            value: like `key`.
            query_rows: the query of each output row, [M].
            key_rows: the key and value of each output row, [M].

        Returns:
            [M, Q, C].
        """
        q = self._split(take(self.q_proj(query), query_rows))
        k = self._split(take(self.k_proj(key), key_rows))
        v = self._split(take(self.v_proj(value), key_rows))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def start_by_likeness(self) -> None:
        """Give queries and keys the same orthogonal projection, so that like attends to like.

        Attention between codes of places then begins as nearness: a prompt reads the image where it
        points from the first step on, and a short training from scratch finds regions at all.
        """
        nn.init.orthogonal_(self.q_proj.weight)
        self.k_proj.load_state_dict(self.q_proj.state_dict())

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def take(x: Tensor, rows: Tensor | None) -> Tensor:
    """Rows of a tensor, or the tensor itself if none are named."""
    return x if rows is None else x[rows]


class TwoWayBlock(nn.Module):
    """Self-attention, tokens to image, an MLP on tokens, image to tokens; post-norm.

    The first block's self-attention uses neither position codes nor a residual.
    """

    def __init__(self, dim: int, heads: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 8 * dim, nn.ReLU())
        self.norm3 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, dim // 2)
        self.norm4 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.cross_attn_token_to_image.start_by_likeness()
        self.cross_attn_image_to_token.start_by_likeness()

    def forward(
        self,
        tokens: Tensor,
        image: Tensor,
        token_code: Tensor,
        image_code: Tensor,
        image_index: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Update tokens and image.

        Args:
            tokens: [M, T, C].
            image: [M, N, C], or [B, N, C] with `image_index`.
            token_code: added to tokens in queries and keys, [M, T, C].
            image_code: added to the image in queries and keys, [N, C].
            image_index: the image of each prompt while prompts still share images, [M].

        Returns:
            The tokens [M, T, C] and the image as each prompt sees it [M, N, C].
        """
        tokens = self.norm1(self._attend_to_self(tokens, token_code))
        places = image + image_code
        read = self.cross_attn_token_to_image(
            tokens + token_code, places, image, key_rows=image_index
        )
        tokens = self.norm2(tokens + self.dropout(read))
        tokens = self.norm3(tokens + self.dropout(self.mlp(tokens)))
        written = self.cross_attn_image_to_token(
            places, tokens + token_code, tokens, query_rows=image_index
        )
        return tokens, self.norm4(take(image, image_index) + written)

    def _attend_to_self(self, tokens: Tensor, token_code: Tensor) -> Tensor:
        if self.first:
            return self.self_attn(tokens, tokens, tokens)
        places = tokens + token_code
        return tokens + self.dropout(self.self_attn(places, places, tokens))


class TwoWayTransformer(nn.Module):
    """A few two-way blocks, then a last look from the tokens to the image."""

    def __init__(self, dim: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TwoWayBlock(dim, heads, dropout, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads, dim // 2)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, image: Tensor, image_code: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let tokens and images read each other.

        Args:
            tokens: [M, T, C]; they are also the tokens' position code.
            image: [B, N, C].
            image_code: the image's position code, [N, C].
            image_index: the image of each row of tokens, [M].

        Returns:
            The tokens [M, T, C] and the image as each of them sees it [M, N, C].
        """
        token_code = tokens
        rows: Tensor | None = image_index
        for block in self.blocks:
            tokens, image = block(tokens, image, token_code, image_code, rows)
            rows = None
        read = self.final_attn_token_to_image(tokens + token_code, image + image_code, image)
        return self.norm(tokens + self.dropout(read)), image
