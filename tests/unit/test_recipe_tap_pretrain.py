import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from small_runs import NO_DROPOUT, batches_of, events_of, make_run, small_job, write_folder
from test_recipe_mae import timm_weights

from datamodules.decoding.decode import Frame, blank_sample
from datamodules.order.plan import Position
from datamodules.stream.batch import collate
from datamodules.vocabulary import Vocabulary
from tap_platform.recipes.tap_pretrain import TapPretrain

STAGES = ("first", "second")
TERMS = ("focal", "dice", "iou", "concept", "actual_iou")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


def make_recipe(job, folder):
    """A recipe without a trainer, and the records that it would hand to one."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.load(folder / "vocabulary.safetensors")
    recipe = TapPretrain(job, torch.from_numpy(vocabulary.embeddings))
    records = []
    recipe.log_dict = records.append
    recipe.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.125}])
    return recipe, records


def one_step(folder, tmp_path, **changes):
    """The micro-batches of the first step of a job without dropout."""
    job = small_job(folder, model=NO_DROPOUT, **changes)
    made = batches_of(job, events_of(make_run(tmp_path)))
    return job, made[: job.accumulation]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_the_weighted_sum_of_the_terms_that_it_records(folder, tmp_path, reduction):
    weights = {"focal": 3.0, "dice": 0.5, "iou": 2.0, "concept": 0.25}
    objective = {f"{term}_weight": weight for term, weight in weights.items()}
    objective |= {"segmentation_weight": 1.5, "stage_reduction": reduction}
    job, (batch,) = one_step(folder, tmp_path, recipe={"objective": objective})
    recipe, records = make_recipe(job, folder)
    loss = recipe.training_step(batch, 0)
    (values,) = records
    terms = {f"{stage}/{term}" for stage in STAGES for term in TERMS}
    assert set(values) == {"loss", "regions", "lr", "step"} | terms
    assert (values["regions"], values["lr"], values["step"]) == (len(batch.masks), 0.125, 1)
    assert all(values[name] > 0 for name in terms - {"first/actual_iou", "second/actual_iou"})
    by_hand = [
        1.5 * sum(weights[term] * values[f"{stage}/{term}"] for term in ("focal", "dice", "iou"))
        + 0.25 * values[f"{stage}/concept"]
        for stage in STAGES
    ]
    expected = sum(by_hand) / (2 if reduction == "mean" else 1)
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)
    assert values["loss"].item() == pytest.approx(float(expected), rel=1e-5)


def test_the_iou_is_that_of_the_regions_with_masks(folder, tmp_path):
    job, (batch,) = one_step(folder, tmp_path)
    recipe, records = make_recipe(job, folder)
    batch.has_mask[1:] = False
    recipe.training_step(batch, 0)
    alone, records_alone = make_recipe(job, folder)
    batch.weights[1:] = 0
    alone.training_step(batch, 0)
    for stage in STAGES:
        iou = records[0][f"{stage}/actual_iou"]
        assert iou == records_alone[0][f"{stage}/actual_iou"] > 0


def test_what_is_recorded_holds_no_graph(folder, tmp_path):
    job, (batch,) = one_step(folder, tmp_path)
    recipe, records = make_recipe(job, folder)
    assert recipe.training_step(batch, 0).requires_grad
    assert not any(torch.is_tensor(v) and v.requires_grad for v in records[0].values())


def test_held_out_regions_without_masks_are_not_scored(folder, tmp_path):
    job, (batch,) = one_step(folder, tmp_path)
    recipe, records = make_recipe(job, folder)
    batch.has_mask = torch.zeros_like(batch.has_mask)
    recipe.validation_step(batch, 0)
    recipe.on_validation_epoch_end()
    assert records == []


def gradients(folder, tmp_path, micro_batch):
    """Gradients of a step as Lightning adds them up, and what the step records.

    Batch norm looks at one micro-batch at a time, so it rests here.
    """
    training = {"global_batch": 8, "micro_batch": micro_batch}
    job, step = one_step(folder, tmp_path / str(micro_batch), training=training)
    recipe, records = make_recipe(job, folder)
    recipe.eval()
    for number, batch in enumerate(step):
        (recipe.training_step(batch, number) / job.accumulation).backward()
    assert len(step) == 8 // micro_batch
    return dict(recipe.named_parameters()), records


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(folder, tmp_path):
    whole, (whole_record,) = gradients(folder, tmp_path, 8)
    parts, (parts_record,) = gradients(folder, tmp_path, 2)
    trained = [name for name, parameter in whole.items() if parameter.grad is not None]
    assert len(trained) > 100
    for name in trained:
        scale = float(whole[name].grad.abs().max())
        torch.testing.assert_close(
            parts[name].grad, whole[name].grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
        )
    for name, value in whole_record.items():
        assert float(parts_record[name]) == pytest.approx(float(value), rel=1e-4), name


def test_micro_batches_of_the_test_above_hold_unequal_numbers_of_regions(folder, tmp_path):
    _, step = one_step(folder, tmp_path, training={"global_batch": 8, "micro_batch": 2})
    counts = [len(batch.masks) for batch in step]
    assert len(set(counts)) > 1
    assert {batch.step_regions for batch in step} == {sum(counts)}


def test_only_the_last_micro_batch_records_and_only_in_its_turn(folder, tmp_path):
    training = {"global_batch": 8, "micro_batch": 4, "log_every": 2}
    job, step = one_step(folder, tmp_path, training=training)
    recipe, records = make_recipe(job, folder)
    for number, batch in enumerate(step):
        recipe.training_step(batch, number)
    assert not records  # step 1 of every 2
    assert not recipe._step_sums


def test_a_batch_without_regions_gives_a_zero_loss_through_the_whole_model(folder, tmp_path):
    job, _ = one_step(folder, tmp_path)
    recipe, records = make_recipe(job, folder)
    batch = collate([blank_sample(Frame.of(job.model))], Position())
    loss = recipe.training_step(batch, 0)
    loss.backward()
    assert loss.item() == 0
    assert records[0]["loss"] == records[0]["regions"] == 0
    for name, parameter in recipe.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name


def test_drop_path_grows_with_the_depth_of_the_layer(folder):
    recipe, _ = make_recipe(small_job(folder, model={"drop_path": 0.3}), folder)
    rates = [block.drop_path.rate for block in recipe.model.image_encoder.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_text_decoder_rests(folder):
    recipe, _ = make_recipe(small_job(folder), folder)
    resting = {name for name, p in recipe.model.named_parameters() if not p.requires_grad}
    assert resting == {n for n, _ in recipe.model.named_parameters() if "text_decoder" in n}
    assert not any(module.training for module in recipe.train().model.text_decoder.modules())
    assert recipe.model.image_decoder.training
    trained = {f"model.{name}" for name in recipe.model.state_dict()} - {
        name for name in recipe.state_dict() if "text_decoder" in name or ".pixel_" in name
    }
    assert recipe.trainable_names() == trained


def test_the_encoder_starts_from_the_weights_that_the_job_names(folder, tmp_path):
    source = timm_weights()
    save_file(source, tmp_path / "mae.safetensors")
    changes = {"recipe": {"mae_weights": str(tmp_path / "mae.safetensors")}}
    recipe, _ = make_recipe(small_job(folder, **changes), folder)
    state = recipe.model.image_encoder.state_dict()
    torch.testing.assert_close(state["blocks.3.mlp.fc2.weight"], source["blocks.3.mlp.fc2.weight"])


def test_the_rate_follows_the_schedule_by_the_step(folder):
    changes = {"optimizer": {"lr": 0.01}, "schedule": {"warmup_steps": 2, "warmup_factor": 0.0}}
    recipe, _ = make_recipe(small_job(folder, **changes), folder)
    plan = recipe.configure_optimizers()
    scheduler = plan["lr_scheduler"]
    assert scheduler["interval"] == "step"
    rates = []
    for _ in range(5):
        rates.append(plan["optimizer"].param_groups[0]["lr"])
        plan["optimizer"].step()
        scheduler["scheduler"].step()
    half_way = 0.01 * 0.5 * (1 + math.cos(math.pi / 2))
    assert rates == pytest.approx([0.005, 0.01, 0.01, half_way, 0])
