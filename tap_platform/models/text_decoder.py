"""The text decoder: a small language model that a semantic token prompts.

Source: Tokenize Anything via Prompting, section 3.4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tap_platform.config.model import TapConfig
from tap_platform.models.layers import Mlp

BEGIN = 1
END = 2


def rotary_angles(start: int, length: int, dim: int, device: torch.device) -> Tensor:
    """Angles of the rotary position code (RoFormer, base 10000).

    Args:
        start: the first position.
        length: how many positions.
        dim: the width of an attention head.
        device: where the angles lie.

    Returns:
        Radians, float32 [length, dim / 2].
    """
    positions = torch.arange(start, start + length, device=device, dtype=torch.float32)
    channels = torch.arange(0, dim, 2, device=device, dtype=torch.float32)
    return positions[:, None] * 10000 ** (-channels / dim)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of adjacent channels of [..., T, dim] by its angle, [T, dim / 2]."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).to(x.dtype)


class KeyValueCache:
    """Keys and values of the positions that one block has seen."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._kept: Tensor | None = None
        """[2, M, heads, capacity, dim]; what lies behind `length` means nothing."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add [M, heads, T, dim] of T new positions each; the keys and values of all positions."""
        if self._kept is None:
            shape = (2, *keys.shape[:2], self.capacity, keys.shape[3])
            self._kept = keys.new_empty(shape)
        start, self.length = self.length, self.length + keys.shape[2]
        self._kept[0, :, :, start : self.length] = keys
        self._kept[1, :, :, start : self.length] = values
        seen = self._kept[:, :, :, : self.length]
        return seen[0], seen[1]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but those that bool [M] marks."""
        if self._kept is not None:
            self._kept = self._kept[:, rows]


class CausalAttention(nn.Module):
    """Multi-head attention to the past, with rotary positions."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Attend in [M, T, C]; a filled cache holds what came before and then T is 1."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            key, value = cache.extend(key, value)
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=query.shape[2] > 1,
        )
        return self.proj(out.transpose(1, 2).flatten(2))


class TextBlock(nn.Module):
    """A pre-norm transformer block that looks back only."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = CausalAttention(dim, heads, dropout)
        self.mlp = Mlp(dim, 4 * dim, nn.GELU())
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, angles: Tensor, cache: KeyValueCache | None) -> Tensor:
        """Map [M, T, C] to the same shape."""
        x = x + self.dropout(self.attn(self.norm1(x), angles, cache))
        return x + self.dropout(self.mlp(self.norm2(x)))


class TextTransformer(nn.Module):
    """Word embeddings, causal blocks and the projection to words."""

    def __init__(self, config: TapConfig) -> None:
        super().__init__()
        dim = config.text_dim
        self.head_dim = dim // config.text_heads
        self.tok_embeddings = nn.Embedding(config.vocab_size, dim)
        self.blocks = nn.ModuleList(
            TextBlock(dim, config.text_heads, config.text_dropout) for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.text_proj = nn.Linear(dim, config.vocab_size, bias=False)

    def forward(self, x: Tensor, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Logits of the word after each position.

        Args:
            x: embeddings of consecutive positions, [M, T, C].
            caches: one for each block, with the positions before `x`.

        Returns:
            [M, T, vocab_size].
        """
        start = caches[0].length if caches else 0
        angles = rotary_angles(start, x.shape[1], self.head_dim, x.device)
        for i, block in enumerate(self.blocks):
            x = block(x, angles, caches[i] if caches else None)
        return self.text_proj(self.norm(x))


class TextDecoder(nn.Module):
    """Describes a region in words: its semantic token is position 0, the text follows."""

    def __init__(self, config: TapConfig) -> None:
        super().__init__()
        self.text_length = config.text_length
        self.pad = config.vocab_size - 1
        self.encoder = nn.Linear(config.embed_dim, config.text_dim, bias=False)
        self.transformer = TextTransformer(config)

    def forward(self, semantic_tokens: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the next word after each word of a text.

        Args:
            semantic_tokens: [M, C].
            tokens: word ids that start with BEGIN, [M, T].

        Returns:
            float32 [M, T, vocab_size]; entry t predicts word t + 1.

        Raises:
            ValueError: if the text does not fit into the positions of the decoder.
        """
        if tokens.shape[1] >= self.text_length:
            raise ValueError(
                f"a text of {tokens.shape[1]} tokens is too long:"
                f" the text decoder holds {self.text_length - 1} beside the semantic token"
            )
        return self.transformer(self._embed(semantic_tokens, tokens))[:, 1:].float()

    @torch.no_grad()
    def generate(
        self,
        semantic_tokens: Tensor,
        max_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Choose word after word; a row that has ended leaves the batch.

        Args:
            semantic_tokens: [M, C].
            max_tokens: the most words of a row, END included; the decoder's positions bound it.
            temperature: divides the logits that words are drawn by; 0 takes the likeliest word.
            generator: where draws come from. A row's words depend on its own draws alone.

        Returns:
            Word ids without BEGIN, int64 [M, at most max_tokens]; after END a row is padded.

        Raises:
            ValueError: if the temperature is negative.
        """
        if temperature < 0:
            raise ValueError(f"a temperature is 0 or more, not {temperature}")
        count, device = len(semantic_tokens), semantic_tokens.device
        steps = min(max_tokens, self.text_length - 2)
        words = torch.full((count, steps), self.pad, device=device)
        draws = _draws(count, steps, generator, device) if temperature else None
        rows = torch.arange(count, device=device)
        caches = [KeyValueCache(self.text_length) for _ in self.transformer.blocks]
        x = self._embed(semantic_tokens, torch.full((count, 1), BEGIN, device=device))
        for step in range(steps):
            if not len(rows):
                return words[:, :step]
            logits = self.transformer(x, caches)[:, -1].float()
            if draws is None:
                word = logits.argmax(-1)
            else:
                word = draw_words(logits / temperature, draws[rows, step])
            words[rows, step] = word
            going_on = word != END
            if not going_on.all():
                rows, word = rows[going_on], word[going_on]
                for cache in caches:
                    cache.keep(going_on)
            x = self.transformer.tok_embeddings(word[:, None])
        return words

    def _embed(self, semantic_tokens: Tensor, tokens: Tensor) -> Tensor:
        prompt = self.encoder(semantic_tokens)[:, None]
        words = self.transformer.tok_embeddings(tokens)
        return torch.cat((prompt.to(words.dtype), words), 1)


def _draws(
    count: int, steps: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Uniform numbers in [0, 1), float64 [count, steps], drawn where the generator lives."""
    source = device if generator is None else generator.device
    draws = torch.rand(count, steps, dtype=torch.float64, generator=generator, device=source)
    return draws.to(device)


def draw_words(logits: Tensor, draws: Tensor) -> Tensor:
    """Turn uniform draws into words: a word's share of [0, 1) is its probability.

    Args:
        logits: [M, V].
        draws: in [0, 1), float64 [M].

    Returns:
        Word ids, int64 [M].
    """
    ends = logits.double().softmax(-1).cumsum(-1)
    # The last end may round to less than 1, so the draw is of what the ends add up to.
    return torch.searchsorted(ends, draws[:, None] * ends[:, -1:], right=True)[:, 0]
