import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import MODEL
from safetensors.torch import save_file
from small_runs import datamodule, events_of, make_run, small_data, write_folder
from test_recipe_mae import timm_weights

from datamodules.batch import collate
from datamodules.decode import Frame, blank_sample
from datamodules.plan import Position
from datamodules.vocabulary import Vocabulary
from tap_platform.launch.worker_entry import Place, build_streams
from tap_platform.recipes.tap_pretrain import STAGES, TERMS, TapPretrain

PLAIN = {**MODEL, "drop_path": 0.0, "decoder_dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def job(make_job, folder):
    def make(**changes):
        changes = {"model": PLAIN, "data": small_data(folder), **changes}
        values = {"name": "tiny", "training": {"max_steps": 4, "global_batch": 8, "log_every": 1}}
        return make_job_of({**values, **changes})

    return make


def make_job_of(tree):
    from tap_platform.config.load import validate_job

    return validate_job(tree, where="test")


def make_recipe(job, folder, seed=0):
    """A recipe without a trainer, and the records it would hand to one."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary.load(folder / "vocabulary.safetensors")
    recipe = TapPretrain(job, torch.from_numpy(vocabulary.embeddings))
    records = []
    recipe.log_dict = records.append
    recipe.optimizers = lambda: SimpleNamespace(param_groups=[{"lr": 0.125}])
    return recipe, records


def batches(job, run_folder, count):
    stream, _ = build_streams(job, Place(0, 1, 0), events_of(make_run(run_folder, job.name)))
    return [batch for batch, _ in zip(stream, range(count), strict=False)]
