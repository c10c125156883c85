"""Losses that teach concepts from a CLIP teacher's embeddings (TAP paper, section 3.3)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

KlDirection = Literal["target_to_prediction", "prediction_to_target"]


def concept_log_probabilities(embeddings: Tensor, vocabulary: Tensor, temperature: float) -> Tensor:
    """Log-probability of each concept: log-softmax of cosine similarities over the temperature.

    Args:
        embeddings: [..., D], of any length; zeros give the uniform distribution.
        vocabulary: float32 [V, D], unit rows.
        temperature: what similarities are divided by.

    Returns:
        float32 [..., V].
    """
    # A small temperature magnifies rounding: in bfloat16 the logits would be off by up to a half.
    with torch.autocast(embeddings.device.type, enabled=False):
        similarities = F.normalize(embeddings.float(), dim=-1) @ vocabulary.float().T
    return F.log_softmax(similarities / temperature, dim=-1)


def concept_kl_loss(
    predicted: Tensor,
    target: Tensor,
    vocabulary: Tensor,
    temperature: float,
    direction: KlDirection,
) -> Tensor:
    """KL divergence between the concept distributions of two embeddings.

    Args:
        predicted: [M, D] embeddings of the model.
        target: [M, D] embeddings of the teacher; no gradient flows to them.
        vocabulary: float32 [V, D], unit rows.
        temperature: what cosine similarities are divided by.
        direction: `target_to_prediction` is KL(target || prediction), `prediction_to_target` is
            KL(prediction || target), the paper's equation.

    Returns:
        float32 [M], 0 or above, in nats.
    """
    prediction = concept_log_probabilities(predicted, vocabulary, temperature)
    truth = concept_log_probabilities(target.detach(), vocabulary, temperature)
    if direction == "target_to_prediction":
        return F.kl_div(prediction, truth, reduction="none", log_target=True).sum(-1)
    return F.kl_div(truth, prediction, reduction="none", log_target=True).sum(-1)


def feature_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Cosine distance of embeddings [M, D] to the teacher's [M, D]: float32 [M], from 0 to 2."""
    return 1 - F.cosine_similarity(predicted.float(), target.detach().float(), dim=-1)
