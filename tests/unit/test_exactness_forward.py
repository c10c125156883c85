"""The product beside the plain reference, with random numbers in every tensor."""

from __future__ import annotations

import pickle

import numpy as np
import plain_tap
import pytest
import torch
from torch import nn

from datamodules.vocabulary import Vocabulary
from tap_platform.models import TapConfig, load_released_weights
from tap_platform.models.released import from_released, to_released
from tap_platform.models.tap import Tap
from tap_platform.models.window_attention import offset_index
from tap_platform.prediction.frames import frame_image
from tap_platform.prediction.predictor import TapPredictor

CONFIG = TapConfig(
    image_size=128,
    window_size=4,
    encoder_depth=8,
    encoder_dim=48,
    encoder_heads=3,
    embed_dim=64,
    decoder_heads=4,
    concept_dim=48,
    text_depth=3,
    text_dim=48,
    text_heads=2,
    vocab_size=60,
    drop_path=0.0,
    decoder_dropout=0.0,
    text_dropout=0.0,
)
SIZES = plain_tap.Sizes(128, 16, 4, 3, 4, 2)
CLOSE = {"atol": 5e-5, "rtol": 0}
CLOSER = {"atol": 2e-5, "rtol": 0}


def random_state():
    """Released names; magnitudes that keep activations near 1."""
    draw = torch.Generator().manual_seed(7)
    normal = lambda shape, std: std * torch.randn(shape, generator=draw)  # noqa: E731
    state = {}
    for name, like in to_released(Tap(CONFIG).state_dict()).items():
        if name.endswith("rel_pos_embed.index"):
            state[name] = offset_index(CONFIG.window_size)
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.randint(1, 99, (), generator=draw)
        elif name.endswith("running_var"):
            state[name] = 0.5 + 1.5 * torch.rand(like.shape, generator=draw)
        elif name == "pixel_mean":
            state[name] = 110 + normal(like.shape, 10)
        elif name == "pixel_rsig":
            state[name] = 1 / (57 + normal(like.shape, 5))
        elif ("norm" in name and name.endswith("weight")) or "_conv.0.1.w" in name:
            state[name] = 1 + normal(like.shape, 0.3)
        elif like.ndim < 2 or "rel_pos" in name or "coord" in name or "token" in name:
            state[name] = normal(like.shape, 0.5)
        else:
            state[name] = normal(like.shape, 0.7 * like[0].numel() ** -0.5)
    return state


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors are tiny here: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def state():
    return random_state()


@pytest.fixture(scope="module")
def plain(state):
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


@pytest.fixture(scope="module")
def tap(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "tap.pkl"
    path.write_bytes(pickle.dumps({name: x.numpy() for name, x in state.items()}))
    return load_released_weights(path, CONFIG).eval()


@pytest.fixture(scope="module")
def images():
    """Two frames [S, S, 3], B, G, R."""
    return torch.randint(256, (2, 128, 128, 3), generator=torch.Generator().manual_seed(1))


def rgb(images):
    return images.flip(-1).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def features(tap, plain, images):
    with torch.no_grad():
        return tap.encode(tap.normalize(rgb(images))), plain_tap.encode(images, plain, SIZES)


BOXES = torch.tensor(
    [[10.0, 20.0, 90.0, 70.0], [0.0, 0.0, 127.0, 127.0], [30.5, 2.25, 31.5, 120.0]]
)
CLICKS = torch.tensor(
    [
        [[64.0, 30.0, 1.0], [20.0, 99.0, 0.0]],
        [[5.0, 5.0, 1.0], [80.0, 80.0, 1.0]],
        [[100.0, 3.5, 0.0], [7.75, 60.0, 1.0]],
    ]
)
PADDED = torch.cat(
    (CLICKS[:, :1], torch.tensor([[[0.0, 0.0, 4.0]], [[55.0, -9.0, 4.0]]])[[0, 1, 0]]), 1
)
OUTSIDE = torch.tensor(
    [[-50.0, 20.0, 300.0, 70.0], [-9.0, -9.0, -1.0, -1.0], [120.0, 120.0, 128.0, 1e6]]
)
PROMPTS = {
    "boxes": (BOXES, None),
    "points": (None, CLICKS),
    "both": (BOXES, CLICKS),
    "padded points": (None, PADDED),
    "both, padded": (BOXES, PADDED),
    "outside": (OUTSIDE, None),
    "points outside": (None, CLICKS * torch.tensor([9.0, -9.0, 1.0])),
    "one point without a pad": (None, CLICKS[:, :1]),
}
IMAGE_INDEX = torch.tensor([0, 1, 1])


def test_every_tensor_differs_from_what_is_neutral(state):
    for name, tensor in state.items():
        assert tensor.numel() == 1 or len(tensor.unique()) > 1, name


def test_image_features(features):
    ours, expected = features
    assert expected.std() > 0.3
    torch.testing.assert_close(ours.double(), expected, **CLOSE)


@pytest.mark.parametrize("budget", [None, 1])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_answers_to_prompts(tap, plain, features, prompts, budget):
    """All prompts at once, and one after the other."""
    points, labels = plain_tap.prompt_points(*prompts)
    with torch.no_grad():
        ours = tap.decode(features[0], points, labels, IMAGE_INDEX, memory_budget=budget)
        expected = plain_tap.decode(features[1], points.double(), labels, IMAGE_INDEX, plain, SIZES)
    assert expected.masks.std() > 0.3
    torch.testing.assert_close(ours.masks.double(), expected.masks, **CLOSE)
    for field in ("iou", "semantic_tokens", "mask_tokens", "concept_embeddings"):
        found, wanted = getattr(ours, field).double(), getattr(expected, field)
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, **CLOSER, msg=field)


def test_prompts_differ_in_their_answers(tap, features):
    """Otherwise agreement would say little."""
    answers = []
    for prompts in PROMPTS.values():
        points, labels = plain_tap.prompt_points(*prompts)
        answers.append(tap.decode(features[0], points, labels, IMAGE_INDEX).iou.detach())
    for i, answer in enumerate(answers):
        for other in answers[:i]:
            assert (answer - other).abs().max() > 1e-3


def test_an_order_of_prompts_that_mixes_images(tap, plain, features):
    points, labels = plain_tap.prompt_points(BOXES[[0, 1, 2, 0]])
    mixed = torch.tensor([1, 0, 1, 0])
    with torch.no_grad():
        ours = tap.decode(features[0], points, labels, mixed)
        expected = plain_tap.decode(features[1], points.double(), labels, mixed, plain, SIZES)
    torch.testing.assert_close(ours.masks.double(), expected.masks, **CLOSE)


def test_dropout_of_the_image_decoder_is_at_its_places_only(state, plain, features):
    """Dropped wholly, branches vanish where there is dropout, and nowhere else."""
    tap = Tap(CONFIG.replaced(decoder_dropout=0.5)).train()
    tap.load_state_dict(from_released(state))
    drops = [module for module in tap.image_decoder.modules() if isinstance(module, nn.Dropout)]
    for module in drops:
        assert module.p == 0.5
        module.p = 1.0
    points, labels = plain_tap.prompt_points(BOXES, CLICKS)
    ours = tap.decode(features[0], points, labels, IMAGE_INDEX)
    expected = plain_tap.decode(
        features[1], points.double(), labels, IMAGE_INDEX, plain, SIZES, kept=0.0
    )
    torch.testing.assert_close(ours.masks.double(), expected.masks, **CLOSE)
    torch.testing.assert_close(ours.semantic_tokens.double(), expected.semantic_tokens, **CLOSER)


@pytest.mark.parametrize("length", [1, 7, 39])
def test_text_logits(tap, plain, length):
    draw = torch.Generator().manual_seed(length)
    semantic = torch.randn(3, 64, generator=draw)
    words = torch.randint(60, (3, length), generator=draw)
    with torch.no_grad():
        ours = tap.text_logits(semantic, words)
        expected = plain_tap.text_logits(semantic.double(), words, plain, SIZES)
    assert expected.std() > 0.3
    torch.testing.assert_close(ours.double(), expected, **CLOSER)


def test_captions(tap, plain):
    semantic = torch.randn(6, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = tap.caption(semantic, max_tokens=100).tolist()
        expected = [plain_tap.caption(row[None].double(), plain, SIZES) for row in semantic]
    lengths = {len(row) for row in expected}
    assert max(lengths) == 38
    pad = CONFIG.vocab_size - 1
    for found, wanted in zip(ours, expected, strict=True):
        assert found == wanted + [pad] * (len(found) - len(wanted))


@pytest.mark.parametrize("training", [False, True])
def test_gradients(state, plain, images, training):
    tap = Tap(CONFIG)
    tap.load_state_dict(from_released(state))
    tap.train(training)
    points, labels = plain_tap.prompt_points(BOXES, PADDED)
    words = torch.randint(60, (3, 9), generator=torch.Generator().manual_seed(5))

    output = tap(tap.normalize(rgb(images)), points, labels, IMAGE_INDEX)
    loss(output, tap.text_logits(output.semantic_tokens[:, 0], words)).backward()
    names = dict(tap.named_parameters())
    ours = to_released({name: parameter.grad for name, parameter in names.items()})

    leaves = {k: v.clone().requires_grad_(k in names) for k, v in plain.items()}
    whole = plain_tap.encode(images, leaves, SIZES, of_batch=training)
    expected = plain_tap.decode(whole, points.double(), labels, IMAGE_INDEX, leaves, SIZES)
    logits = plain_tap.text_logits(expected.semantic_tokens[:, 0], words, leaves, SIZES)
    loss(expected, logits).backward()
    largest = max(leaves[name].grad.abs().max() for name in names)
    for name in names:
        wanted = leaves[name].grad
        # A bias of keys moves all scores of a query alike: its true gradient is zero.
        allowed = 1e-3 * wanted.norm() + 1e-6 * largest
        assert (ours[name].double() - wanted).norm() <= allowed, name


def loss(output, logits):
    """Everything that comes out, weighed by fixed random numbers."""
    draw = torch.Generator().manual_seed(11)
    return sum(
        (part * torch.randn(part.shape, generator=draw).to(part)).mean()
        for part in (*output, logits)
    )


SHAPES = [(300, 400), (97, 41), (128, 128), (33, 1000), (90, 44), (44, 90)]


def picture(shape):
    return np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_frames_and_masks_of_images(shape):
    frame, scale, visible = plain_tap.preprocess(picture(shape)[:, :, ::-1], 128)
    ours = frame_image(picture(shape), 128)
    assert np.array_equal(ours.pixels.permute(1, 2, 0).numpy()[:, :, ::-1], frame)
    assert (ours.scale, ours.visible) == (scale, visible)
    logits = torch.randn(3, 32, 32)
    expected = plain_tap.postprocess(logits, 128, visible, shape)
    assert torch.equal(ours.masks_of_image(logits) > 0, expected)


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("kind", ["boxes", "clicks", "both"])
def test_prediction_from_picture_to_mask(tap, plain, shape, kind):
    boxes = np.array([[3, 5, 33, 90], [-9, 10, 70.5, 55]]) if kind != "clicks" else None
    clicks = np.array([[[20, 30]], [[39, 96]]]) if kind != "boxes" else None
    columns = torch.randn(48, 9, generator=torch.Generator().manual_seed(2))
    columns = 100 * columns / columns.norm(dim=0)
    names = Vocabulary(tuple("abcdefghi"), columns.T.numpy() / 100, "test")
    found = TapPredictor(tap, names).set_image(picture(shape)).predict(points=clicks, boxes=boxes)

    frame, scale, visible = plain_tap.preprocess(picture(shape)[:, :, ::-1], 128)
    points = None
    if clicks is not None:
        pad = [[0.0, 0.0, 4.0]] if kind == "clicks" else []
        points = torch.tensor([[[x * scale, y * scale, 1.0], *pad] for [[x, y]] in clicks.tolist()])
    given = plain_tap.prompt_points(None if boxes is None else torch.tensor(boxes * scale), points)
    with torch.no_grad():
        features = plain_tap.encode(torch.tensor(frame)[None], plain, SIZES)
        whole = plain_tap.decode(
            features, given[0].double(), given[1], torch.tensor([0, 0]), plain, SIZES
        )
        chosen = plain_tap.select(whole.iou, given[1])
        expected = plain_tap.Answer(*(part[[0, 1], chosen] for part in whole))
        names = plain_tap.concept_probabilities(expected.concept_embeddings, columns.double())
        masks = plain_tap.postprocess(expected.masks, 128, visible, shape)
    assert (chosen == 0).all() == (kind != "clicks")
    torch.testing.assert_close(torch.tensor(found.low_res_logits).double(), expected.masks, **CLOSE)
    torch.testing.assert_close(torch.tensor(found.iou).double(), expected.iou, **CLOSER)
    assert list(found.concepts) == ["abcdefghi"[i] for i in names.argmax(1)]
    assert found.concept_scores == pytest.approx(names.amax(1).numpy(), abs=2e-5)
    assert (found.masks != masks.numpy()).mean() < 1e-3
