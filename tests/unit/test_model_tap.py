from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tap_platform.models import ConceptProjector, RegionOutput, Tap, TapConfig

FACTS = Path(__file__).resolve().parents[3] / "shared" / "facts"
TINY = TapConfig.preset(
    "tiny", image_size=128, window_size=4, decoder_dropout=0.0, text_dropout=0.0
)


@pytest.fixture(scope="module")
def tap():
    torch.manual_seed(0)
    return Tap(TINY).eval()


POINTS = torch.tensor(
    [[[10.0, 20.0], [90.0, 70.0]], [[60.0, 60.0], [0.0, 0.0]], [[3.0, 4.0], [50.0, 9.0]]]
)
LABELS = torch.tensor([[2, 3], [1, 4], [0, 1]])
IMAGE_INDEX = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_state_has_the_released_names_shapes_and_types(name):
    facts = FACTS / f"state_keys_{name}.json"
    if not facts.exists():
        pytest.skip(f"{facts} is not here")
    with torch.device("meta"):
        state = Tap(TapConfig.preset(name)).state_dict()
    found = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in state.items()
    }
    assert found == json.loads(facts.read_text())


def test_shapes_and_types_of_every_answer(tap):
    images = tap.encode(torch.randn(2, 3, 128, 128))
    assert images.shape == (2, 64, 8, 8)
    output = tap.decode(images, POINTS, LABELS, IMAGE_INDEX)
    assert isinstance(output, RegionOutput)
    assert [tuple(part.shape) for part in output] == [
        (3, 4, 32, 32),
        (3, 4),
        (3, 4, 64),
        (3, 4, 64),
        (3, 4, 64),
    ]
    semantic = output.semantic_tokens[:, 0]
    logits = tap.text_logits(semantic, torch.randint(1024, (3, 7)))
    assert logits.shape == (3, 7, 1024)
    caption = tap.caption(semantic, max_tokens=5)
    assert caption.dtype == torch.int64
    assert caption.shape[0] == 3
    assert caption.shape[1] <= 5
    assert tap.config is TINY


def test_prompts_are_answered_alike_alone_and_among_others(tap):
    pixels = torch.randn(2, 3, 128, 128)
    together = tap(pixels, POINTS, LABELS, IMAGE_INDEX)
    for i, image in enumerate(IMAGE_INDEX):
        alone = tap(pixels[image][None], POINTS[i : i + 1], LABELS[i : i + 1], torch.tensor([0]))
        for ours, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[i], expected[0], atol=1e-5, rtol=1e-4)


def test_the_frame_of_prompts_is_that_of_the_image(tap):
    seen = []
    hook = tap.prompt_encoder.register_forward_hook(lambda _, args, out: seen.append(args[2]))
    tap(torch.randn(2, 3, 128, 256), POINTS, LABELS, IMAGE_INDEX)
    hook.remove()
    assert seen == [(128, 256)]


def test_every_parameter_gets_a_finite_gradient():
    torch.manual_seed(0)
    tap = Tap(TINY)
    output = tap(torch.randn(2, 3, 128, 128), POINTS, LABELS, IMAGE_INDEX)
    logits = tap.text_logits(output.semantic_tokens[:, 0], torch.randint(1024, (3, 7)))
    loss = sum(part.square().mean() for part in (*output, logits))
    loss.backward()
    for name, parameter in tap.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_no_prompt_is_answered_by_nothing(tap):
    nothing = torch.zeros(0, 2, 2), torch.zeros(0, 2, dtype=torch.int64)
    output = tap(torch.randn(1, 3, 128, 128), *nothing, torch.zeros(0, dtype=torch.int64))
    assert [len(part) for part in output] == [0, 0, 0, 0, 0]


def test_normalize_takes_the_mean_of_each_colour(tap):
    pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    pixels[:, 0] = 255
    normalized = tap.normalize(pixels)[0, :, 0, 0]
    expected = [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    torch.testing.assert_close(normalized, torch.tensor(expected))
    torch.testing.assert_close(tap.normalize(pixels.float()), tap.normalize(pixels))


def test_autocast_and_half_modules_run(tap):
    pixels = torch.randn(2, 3, 128, 128)
    precise = tap(pixels, POINTS, LABELS, IMAGE_INDEX)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tap(pixels, POINTS, LABELS, IMAGE_INDEX)
        tap.text_logits(mixed.semantic_tokens[:, 0], torch.randint(1024, (3, 7)))
    half = Tap(TINY).eval()
    half.load_state_dict(tap.state_dict())
    half.bfloat16()
    plain = half(pixels.bfloat16(), POINTS, LABELS, IMAGE_INDEX)
    half.caption(plain.semantic_tokens[:, 0], max_tokens=3)
    for output in (mixed, plain):
        assert output.iou.dtype == torch.float32
        for ours, expected in zip(output, precise, strict=True):
            error = (ours.float() - expected).norm() / expected.norm()
            assert error < 0.1


def test_new_model_starts_as_a_training_from_scratch_should(tap):
    state = tap.state_dict()
    assert not any(value.any() for name, value in state.items() if "rel_pos_embed.weight" in name)
    assert not state["image_encoder.cross_conv.3.norm3.weight"].any()
    frequencies = state["prompt_encoder.coord_matrix"].std().item()
    assert frequencies == pytest.approx(TINY.coordinate_scale, rel=0.25)
    assert state["image_encoder.blocks.0.attn.qkv.weight"].std().item() == pytest.approx(0.02, 0.1)
    assert state["image_decoder.mask_tokens.weight"].std().item() == pytest.approx(1, abs=0.25)


def test_concepts_are_the_softmax_of_cosines_over_the_temperature():
    torch.manual_seed(0)
    names, embeddings = torch.randn(6, 4) * 3, torch.randn(2, 5, 4)
    projector = ConceptProjector(names, temperature=0.1)
    cosines = torch.cosine_similarity(embeddings[:, :, None], names, dim=-1)
    expected = (cosines / 0.1).softmax(-1)
    torch.testing.assert_close(projector(embeddings).exp(), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(projector(embeddings).exp(), expected)
    probabilities, indices = projector.top_k(embeddings, 2)
    assert torch.equal(indices[..., 0], expected.argmax(-1))
    torch.testing.assert_close(probabilities[..., 0], expected.amax(-1))
    assert projector.top_k(embeddings, 100)[1].shape == (2, 5, 6)
    assert not projector.state_dict()
