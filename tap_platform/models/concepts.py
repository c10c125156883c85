"""Concepts: how near a region is to each name of a vocabulary.

Source: Tokenize Anything via Prompting, section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConceptProjector(nn.Module):
    """Compares embeddings of regions with those of the vocabulary's names.

    The vocabulary is data, not weights: nothing of it enters a state dict.
    """

    text_embeddings: Tensor

    def __init__(self, text_embeddings: Tensor, temperature: float = 0.01) -> None:
        """Hold a vocabulary.

        Args:
            text_embeddings: one row for each name, of any length, [V, D].
            temperature: divides the cosines; CLIP's is 0.01.
        """
        super().__init__()
        unit = F.normalize(text_embeddings.float(), dim=-1)
        self.register_buffer("text_embeddings", unit, persistent=False)
        self.temperature = temperature

    def forward(self, embeddings: Tensor) -> Tensor:
        """Log-probabilities of the names.

        Args:
            embeddings: points of the concept space, of any length, [..., D].

        Returns:
            float32 [..., V].
        """
        # A cosine divided by 0.01 needs more digits than autocast leaves.
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.normalize(embeddings.float(), dim=-1) @ self.text_embeddings.float().T
        return F.log_softmax(cosines / self.temperature, dim=-1)

    def top_k(self, embeddings: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The likeliest names.

        Args:
            embeddings: [..., D].
            k: how many names; a smaller vocabulary gives all it has.

        Returns:
            Probabilities, highest first, and indices into the vocabulary, [..., k] each.
        """
        k = min(k, len(self.text_embeddings))
        probabilities, indices = self(embeddings).exp().topk(k, dim=-1)
        return probabilities, indices
