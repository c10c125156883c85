from __future__ import annotations

import dataclasses
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from data_samples import box_mask, region, sample
from lightning.pytorch import Trainer
from small_runs import DIM, batches_of, events_of, make_run, make_sample, small_job
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.decoding.decode import Frame, blank_sample
from datamodules.order.plan import Position
from datamodules.shards.writer import ShardWriter
from datamodules.stream.batch import collate
from datamodules.vocabulary import Vocabulary
from tap_platform.objectives.prompts import BOX_LEFT_TOP, FOREGROUND, PAD, box_prompts
from tap_platform.recipes.build import build_recipe
from tap_platform.recipes.tap_caption import TapCaption
from tap_platform.recipes.tap_pretrain import TapPretrain
from tap_platform.text.tokenizer import Tokenizer
from tap_platform.text.training import train_tokenizer

SIZES, COLOURS, SHAPES = ("small", "large"), ("red", "blue", "green"), ("star", "ring", "square")
PHRASES = [f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]
CALM = {"drop_path": 0.0, "decoder_dropout": 0.0, "text_dropout": 0.0}
PARTS = {"image_encoder", "prompt_encoder", "image_decoder", "text_decoder"}


def described(number):
    """Some regions with two phrases, some with one, some with none."""
    made = make_sample(number)
    regions = [
        dataclasses.replace(
            each,
            phrases=[PHRASES[(number + place + k) % 18] for k in range(number * (place + 1) % 3)],
        )
        for place, each in enumerate(made.regions)
    ]
    return dataclasses.replace(made, regions=regions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    for split in ("train", "val"):
        with ShardWriter(folder / split, 8) as writer:
            for number in range(16):
                writer.write(described(number))
    names = ("cat", "dog", "bird")
    Vocabulary.from_names(names, DIM, kind="test").save(folder / "vocabulary.safetensors")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(PHRASES, 64, path)
    return Tokenizer(path)


def caption_job(folder, train="text_decoder", caption=None, objective=None, **changes):
    recipe = {"type": "tap_caption", "train": train}
    recipe |= {"caption": caption or {}, "objective": objective or {}}
    changes = {"model": CALM, **changes}
    return small_job(folder, recipe=recipe, init_from="some-run", **changes)


def with_records(recipe):
    """A recipe without a trainer, and the records that it would hand to one."""
    records = []
    recipe.log_dict = records.append
    recipe.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.125}])
    return recipe, records


@pytest.fixture
def make_recipe(folder, tokenizer):
    def make(job, kind=TapCaption):
        torch.manual_seed(0)
        vocabulary = torch.from_numpy(Vocabulary.load(folder / "vocabulary.safetensors").embeddings)
        own = (tokenizer,) if kind is TapCaption else ()
        return with_records(kind(job, vocabulary, *own))

    return make


@pytest.fixture
def first_step(folder, tmp_path):
    """The micro-batches of a job's first step."""
    numbers = count()

    def read(job):
        run = make_run(tmp_path, f"run-{next(numbers)}")
        return batches_of(job, events_of(run))[: job.accumulation]

    return read


def phrased_rows(batch):
    return [row for row, phrases in enumerate(batch.phrases) if phrases]


def without_phrases(batch):
    return dataclasses.replace(batch, phrases=[()] * len(batch.phrases), step_phrased=0)


def gradients_by_part(recipe):
    """Parts of the model that some gradient reaches."""
    return {
        name.split(".")[0]
        for name, parameter in recipe.model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


def watch(module):
    """The arguments of every call of a module."""
    calls = []
    module.register_forward_hook(lambda _, args, out: calls.append(args))
    return calls


def state_of(recipe):
    return {name: tensor.clone() for name, tensor in recipe.state_dict().items()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# ------------------------------------------------------------------ what is trained


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_what_rests_is_bit_equal_after_lightning_has_trained_and_looked(
    folder, tmp_path, make_recipe
):
    job = caption_job(folder, model={"text_dropout": 0.4, "drop_path": 0.3, "decoder_dropout": 0.3})
    recipe, _ = make_recipe(job)
    del recipe.log_dict, recipe.optimizers
    recipe.model.image_encoder.get_buffer("neck.lateral_conv.0.1.running_mean").fill_(0.5)
    before = state_of(recipe)
    batches = batches_of(job, events_of(make_run(tmp_path)))
    recipe.train()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=4,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recipe, *(DataLoader(each, batch_size=None) for each in (batches, batches[:1])))
    assert trainer.global_step == 4
    changed = moved(before, recipe.state_dict())
    assert changed <= recipe.trainable_names()
    assert {name for name in changed if name.endswith("weight")} == {
        name for name in recipe.trainable_names() if name.endswith("weight")
    }
    resting = [part for name, part in recipe.model.named_children() if name != "text_decoder"]
    assert not any(module.training for part in resting for module in part.modules())
    assert recipe.model.text_decoder.training


def test_dropout_of_what_rests_does_not_act(folder, make_recipe, first_step):
    job = caption_job(folder, model={**CALM, "drop_path": 0.5, "decoder_dropout": 0.5})
    recipe, _ = make_recipe(job)
    recipe.train()
    (batch,) = first_step(job)
    assert recipe.training_step(batch, 0) == recipe.training_step(batch, 0)


@pytest.mark.parametrize(("train", "reached"), [("text_decoder", {"text_decoder"}), ("all", PARTS)])
def test_the_gradient_of_captions_reaches_what_is_trained(
    folder, make_recipe, first_step, train, reached
):
    silent = {"segmentation_weight": 0.0, "concept_weight": 0.0}
    job = caption_job(folder, train, objective=silent)
    recipe, _ = make_recipe(job)
    (batch,) = first_step(job)
    recipe.training_step(batch, 0).backward()
    assert gradients_by_part(recipe) == reached


@pytest.mark.parametrize("train", ["text_decoder", "all"])
def test_names_and_optimizer_are_those_of_the_trained_parts(folder, make_recipe, train):
    recipe, _ = make_recipe(caption_job(folder, train))
    names = {name.split(".")[1] for name in recipe.trainable_names()}
    assert names == ({"text_decoder"} if train == "text_decoder" else PARTS)
    running = "model.image_encoder.neck.lateral_conv.0.1.running_mean"
    assert (running in recipe.trainable_names()) == (train == "all")
    assert recipe.trainable_names() < set(recipe.state_dict())
    groups = recipe.configure_optimizers()["optimizer"].param_groups
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    parameters = dict(recipe.named_parameters())
    expected = {id(parameters[n]) for n in recipe.trainable_names() if n in parameters}
    assert optimized == expected


# ------------------------------------------------------------------ the loss


def loss_by_hand(recipe, batch, tokens, tokenizer):
    """Mean cross entropy of the regions' only phrases, one by one."""
    losses = []
    for row, token in zip(phrased_rows(batch), tokens, strict=True):
        ids = [1, *tokenizer.encode(batch.phrases[row][0]), 2]
        logits = recipe.model.text_logits(token[None], torch.tensor([ids[:-1]]))
        losses.append(F.cross_entropy(logits[0], torch.tensor(ids[1:])))
    return torch.stack(losses)


def single(batch):
    """The batch with the first of each region's phrases only."""
    return dataclasses.replace(batch, phrases=[phrases[:1] for phrases in batch.phrases])


@pytest.mark.parametrize("token", ["semantic", "mask"])
def test_captions_are_prompted_by_the_token_that_answers_the_box(
    folder, make_recipe, first_step, tokenizer, token
):
    job = caption_job(folder, caption={"token": token})
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    batch = single(batch)
    loss = recipe.training_step(batch, 0)
    boxes = box_prompts(batch.boxes)
    with torch.no_grad():
        answers = recipe.model.eval()(
            recipe.model.normalize(batch.pixels), boxes.points, boxes.labels, batch.image_index
        )
    tokens = answers.semantic_tokens if token == "semantic" else answers.mask_tokens
    expected = loss_by_hand(recipe, batch, tokens[phrased_rows(batch), 0], tokenizer)
    assert 0 < len(expected) < len(batch.phrases)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    (values,) = records
    assert set(values) == {"loss", "caption", "phrased", "lr", "step"}
    assert values["loss"] == values["caption"] == pytest.approx(loss.item(), rel=1e-6)
    assert values["phrased"] == len(expected) == batch.step_phrased


def test_full_fine_tuning_adds_captions_of_the_first_answers(
    folder, make_recipe, first_step, tokenizer
):
    job = caption_job(folder, "all", caption={"weight": 0.5}, model={})
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    batch = single(batch)
    asked, answered = watch(recipe.model.text_decoder), []
    recipe.model.image_decoder.register_forward_hook(lambda _, args, out: answered.append(out))
    torch.manual_seed(3)
    loss = recipe.training_step(batch, 0)
    pretrain, pretrain_records = make_recipe(small_job(folder), TapPretrain)
    torch.manual_seed(3)
    seen = pretrain.training_step(batch, 0)
    (values,), (others,) = records, pretrain_records
    assert {name: values[name] for name in others if name != "loss"} == {
        name: value for name, value in others.items() if name != "loss"
    }
    torch.testing.assert_close(loss, seen + 0.5 * values["caption"])
    torch.testing.assert_close(values["loss"], loss.detach())
    ((tokens, _),) = asked
    first = answered[0].semantic_tokens[phrased_rows(batch)]
    is_routed = (first == tokens[:, None]).all(-1)
    assert (is_routed.sum(1) == 1).all()
    assert is_routed[:, 0].any()  # boxes
    assert is_routed[:, 1:].any()  # points
    assert answered[1].semantic_tokens.requires_grad


def test_without_their_weight_captions_leave_pretraining_as_it_is(folder, make_recipe, first_step):
    job = caption_job(folder, "all", caption={"weight": 0.0}, model={})
    recipe, _ = make_recipe(job)
    pretrain, _ = make_recipe(small_job(folder), TapPretrain)
    (batch,) = first_step(job)
    losses = []
    for each in (recipe, pretrain):
        torch.manual_seed(3)
        losses.append(each.training_step(batch, 0))
        losses[-1].backward()
    assert torch.equal(*losses)
    gradients = dict(recipe.model.named_parameters())
    for name, parameter in pretrain.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, msg=name)


def test_a_region_costs_only_what_is_known_of_it(folder, make_recipe, first_step):
    job = caption_job(folder, "all")
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    assert len(set(map(bool, batch.phrases))) == 2
    recipe.training_step(without_phrases(batch), 0)
    nothing = torch.zeros_like(batch.has_mask)
    recipe.training_step(dataclasses.replace(batch, has_mask=nothing), 0)
    recipe.training_step(dataclasses.replace(batch, has_prior=nothing), 0)
    no_phrase, no_mask, no_prior = records
    assert no_phrase["caption"] == no_phrase["phrased"] == 0
    assert no_mask["first/focal"] == no_mask["second/dice"] == no_mask["first/iou"] == 0
    assert no_prior["first/concept"] == no_prior["second/concept"] == 0
    assert min(no_phrase["first/focal"], no_phrase["first/concept"]) > 0
    assert min(no_mask["caption"], no_mask["first/concept"]) > 0
    assert min(no_prior["caption"], no_prior["first/focal"]) > 0


def test_phrases_of_unknown_pieces_only_are_none(folder, make_recipe, first_step):
    job = caption_job(folder)
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    one, other, *_ = phrased_rows(batch)
    phrases = [()] * len(batch.phrases)
    phrases[one], phrases[other] = ("a red star",), ("☃☃ ☃",)
    asked = watch(recipe.model.text_decoder)
    recipe.training_step(dataclasses.replace(batch, phrases=phrases, step_phrased=2), 0)
    assert asked[0][0].shape[0] == 1
    assert records[0]["phrased"] == 1


def test_capitals_are_lowered_unless_told_otherwise(folder, make_recipe, first_step):
    losses = []
    for lower_case, phrase in [(True, "A RED star"), (True, "a red star"), (False, "A RED star")]:
        job = caption_job(folder, caption={"lower_case": lower_case})
        recipe, _ = make_recipe(job)
        (batch,) = first_step(job)
        phrases = [(phrase,)] * len(batch.phrases)
        losses.append(recipe.training_step(dataclasses.replace(batch, phrases=phrases), 0))
    assert losses[0] == losses[1] != losses[2]


def test_labels_are_smoothed_in_training_and_not_when_held_out(folder, make_recipe, first_step):
    trained, held_out = [], []
    for smoothing in (0.0, 0.1):
        job = caption_job(folder, caption={"label_smoothing": smoothing})
        recipe, records = make_recipe(job)
        (batch,) = first_step(job)
        trained.append(recipe.training_step(batch, 0))
        held_out.append(held_out_loss(recipe, records, [batch]))
    assert trained[0] != trained[1]
    assert held_out[0] == held_out[1]


# ------------------------------------------------------------------ what is run


def test_an_image_is_embedded_once_and_undescribed_regions_are_not_looked_at(
    folder, make_recipe, first_step
):
    job = caption_job(folder, training={"global_batch": 8})
    recipe, _ = make_recipe(job)
    (batch,) = first_step(job)
    parts = ("image_encoder", "image_decoder", "text_decoder")
    encoded, decoded, described = (watch(getattr(recipe.model, part)) for part in parts)
    graphs = []
    recipe.model.image_decoder.register_forward_hook(
        lambda *_: graphs.append(torch.is_grad_enabled())
    )
    recipe.training_step(batch, 0)
    ((pixels,),) = encoded
    assert len(pixels) == 8
    assert graphs == [False]  # no activation is kept
    rows = phrased_rows(batch)
    ((tokens, words),) = described
    assert torch.equal(decoded[0][3], batch.image_index[rows])
    assert len(tokens) == len(words) == len(rows) < len(batch.phrases)
    longest = (words != recipe.tokenizer.pad_id).sum(1).max()
    assert words.shape[1] == longest < job.model.text_length - 2


def test_points_are_drawn_in_the_predicted_mask(folder, make_recipe, first_step):
    job = caption_job(folder, caption={"prompt": "predicted_mask_points"})
    recipe, _ = make_recipe(job)
    (batch,) = first_step(job)
    asked, answers, decode = [], [], recipe.decode

    def decoded(images, prompts, image_index):
        answer = decode(images, prompts, image_index)
        if not asked:  # The first two regions seem empty, the others are whatever is predicted.
            answer = answer._replace(masks=answer.masks + 0.0)
            answer.masks[:2, 0] = -1.0
        asked.append(prompts)
        answers.append(answer)
        return answer

    recipe.decode = decoded
    described = watch(recipe.model.text_decoder)
    recipe.training_step(batch, 0)
    boxes, points = asked
    assert boxes.is_box.all()
    predicted = answers[0].masks[:, 0] > 0
    empty = ~predicted.flatten(1).any(1)
    assert empty[:2].all()
    assert not empty.all()
    assert torch.equal(points.is_box, empty)
    assert (points.labels[empty, 0] == BOX_LEFT_TOP).all()
    drawn = points.labels == FOREGROUND
    assert torch.equal(drawn.any(1), ~empty)
    assert (points.labels[~empty][~drawn[~empty]] == PAD).all()
    ratio = job.model.image_size / predicted.shape[-1]
    at = ((points.points + 0.5) / ratio - 0.5).round().long().clamp(min=0)
    rows = torch.arange(len(predicted))[:, None]
    assert predicted[rows, at[..., 1], at[..., 0]][drawn].all()
    best = 1 + answers[1].iou[:, 1:].argmax(1)
    expected = answers[1].semantic_tokens[rows[:, 0], best.masked_fill(empty, 0)]
    assert torch.equal(described[0][0], expected)


# ------------------------------------------------------------------ batches


def gradients(make_recipe, first_step, job):
    """Gradients of a step as Lightning adds them up, and what the step records."""
    step = first_step(job)
    recipe, records = make_recipe(job)
    if recipe.trains_all:
        recipe.eval()  # Batch norm looks at one micro-batch at a time.
    for number, batch in enumerate(step):
        (recipe.training_step(batch, number) / job.accumulation).backward()
    return step, dict(recipe.named_parameters()), records


@pytest.mark.parametrize("train", ["text_decoder", "all"])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(
    folder, make_recipe, first_step, train
):
    jobs = [
        caption_job(folder, train, training={"global_batch": 8, "micro_batch": micro_batch})
        for micro_batch in (8, 2)
    ]
    whole, parts = (gradients(make_recipe, first_step, job) for job in jobs)
    counts = [len(phrased_rows(batch)) for batch in parts[0]]
    assert len(set(counts)) > 1
    assert {batch.step_phrased for batch in parts[0]} == {sum(counts)}
    trained = [name for name, each in whole[1].items() if each.grad is not None]
    assert len(trained) > 10
    for name in trained:
        wanted, found = whole[1][name].grad, parts[1][name].grad
        scale = float(wanted.abs().max())
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)
    for name, value in whole[2][0].items():
        assert float(parts[2][0][name]) == pytest.approx(float(value), rel=1e-4), name


@pytest.mark.parametrize("train", ["text_decoder", "all"])
def test_an_empty_batch_gives_a_zero_loss_through_all_that_is_trained(folder, make_recipe, train):
    job = caption_job(folder, train)
    recipe, records = make_recipe(job)
    batch = collate([blank_sample(Frame.of(job.model))], Position())
    loss = recipe.training_step(batch, 0)
    loss.backward()
    assert loss.item() == records[0]["loss"] == records[0]["phrased"] == 0
    for name, parameter in recipe.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or not parameter.grad.any(), name


def test_a_batch_without_phrases_gives_every_trained_parameter_a_gradient(
    folder, make_recipe, first_step
):
    job = caption_job(folder)
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    # Another micro-batch of the step has phrases.
    recipe.training_step(dataclasses.replace(without_phrases(batch), step_phrased=3), 0).backward()
    assert records[0]["loss"] == 0
    for name, parameter in recipe.model.text_decoder.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


# ------------------------------------------------------------------ held-out regions


def held_out_loss(recipe, records, batches):
    recipe.eval()
    with torch.no_grad():
        for number, batch in enumerate(batches):
            recipe.validation_step(batch, number)
        recipe.on_validation_epoch_end()
    return records[-1].get("val/caption_loss")


def test_the_held_out_loss_is_the_mean_over_first_phrases(
    folder, make_recipe, first_step, tokenizer
):
    job = caption_job(folder, training={"global_batch": 8, "micro_batch": 4})
    recipe, records = make_recipe(job)
    batches = first_step(job)
    found = held_out_loss(recipe, records, batches)
    assert {"val/box_iou", "val/point_iou", "val/concept_top1", "step"} < set(records[-1])
    losses = []
    with torch.no_grad():
        for batch in batches:
            boxes = box_prompts(batch.boxes)
            answers = recipe.model(
                recipe.model.normalize(batch.pixels), boxes.points, boxes.labels, batch.image_index
            )
            tokens = answers.semantic_tokens[phrased_rows(batch), 0]
            losses.append(loss_by_hand(recipe, batch, tokens, tokenizer))
    assert found == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


def test_held_out_regions_without_phrases_have_no_caption_loss(folder, make_recipe, first_step):
    job = caption_job(folder)
    recipe, records = make_recipe(job)
    (batch,) = first_step(job)
    assert held_out_loss(recipe, records, [without_phrases(batch)]) is None
    assert "val/box_iou" in records[-1]


# ------------------------------------------------------------------ learning


def test_it_learns_four_phrases_by_heart(folder, make_recipe, tmp_path):
    boxes = [(0, 0, 30, 24), (34, 0, 64, 24), (0, 26, 30, 48), (34, 26, 64, 48)]
    regions = [region(box_mask(48, 64, *box)) for box in boxes]
    regions = [
        dataclasses.replace(each, phrases=[phrase])
        for each, phrase in zip(regions, PHRASES[::5], strict=True)
    ]
    with ShardWriter(tmp_path / "train", 4) as writer:
        writer.write(sample("four", regions, dim=DIM))
    Vocabulary.from_names(("cat",), DIM, kind="test").save(tmp_path / "vocabulary.safetensors")
    still = {"jitter": {"minimum": 1.0, "maximum": 1.0}, "partitions": 1}
    job = caption_job(
        tmp_path,
        data=still,
        training={"max_steps": 90, "global_batch": 1},
        optimizer={"lr": 0.01, "weight_decay": 0.0},
        schedule={"warmup_steps": 4, "final_factor": 0.3},
    )
    recipe, records = make_recipe(job)
    batch = batches_of(job, events_of(make_run(tmp_path)))[0]
    plan = recipe.configure_optimizers()
    for _ in range(90):
        recipe.training_step(batch, 0).backward()
        plan["optimizer"].step()
        plan["optimizer"].zero_grad()
        plan["lr_scheduler"]["scheduler"].step()
    assert records[0]["loss"] > 3
    assert records[-1]["loss"] < 0.05
    recipe.eval()
    prompts = box_prompts(batch.boxes)
    answers = recipe.decode(recipe.encode(batch), prompts, batch.image_index)
    words = recipe.model.caption(answers.semantic_tokens[:, 0])
    said = [recipe.tokenizer.decode(row) for row in words.tolist()]
    assert said == [phrases[0] for phrases in batch.phrases]


def test_a_job_names_its_recipe(folder, tokenizer):
    vocabulary = torch.eye(3, DIM)
    pretrain = build_recipe(small_job(folder), vocabulary, None)
    assert isinstance(pretrain, TapPretrain)
    caption = build_recipe(caption_job(folder), vocabulary, tokenizer.path)
    assert isinstance(caption, TapCaption)
    assert caption.tokenizer.vocab_size == 64
