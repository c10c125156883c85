from __future__ import annotations

from types import SimpleNamespace

import torch

from tap_platform.evaluation.confusion import ConfusionCollector, confusion_rows


def test_the_commonest_pairs_come_first_with_their_share_of_the_true_name():
    pairs = [("cat", "dog")] * 3 + [("cat", "cat")] + [("dog", "dog")] * 2
    assert confusion_rows(pairs) == [
        ["cat", "dog", 3, 0.75],
        ["dog", "dog", 2, 1.0],
        ["cat", "cat", 1, 0.25],
    ]
    assert confusion_rows([]) == []


def test_only_regions_with_a_mask_and_a_name_count():
    collect = ConfusionCollector(["cat", "dog"], torch.eye(2))
    batch = SimpleNamespace(
        concepts=torch.tensor([0, 1, -1, 0, 0]),
        weights=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]),
        has_mask=torch.tensor([True, True, True, True, False]),
    )
    said = torch.tensor([[0.0, 2.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    answers = SimpleNamespace(by_box=SimpleNamespace(concept_embeddings=said[:, None]))
    collect(batch, answers)
    assert collect.pairs == [("cat", "dog"), ("dog", "dog")]
