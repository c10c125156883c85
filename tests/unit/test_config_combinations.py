import pytest

from tap_platform.config.load import validate_job


def job(**sections):
    tree = {
        "name": "combined",
        "model": {"preset": "vit_b"},
        "data": {"source": "shards", "path": "data", "partitions": 8},
        "training": {"max_steps": 4, "global_batch": 8},
    }
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return validate_job(tree, where="combined")


REFUSED = [
    (
        {"strategy": "ddp", "offload": "optimizer"},
        {},
        "optimizer .*strategy ddp: take zero_1",
    ),
    ({"strategy": "ddp", "offload": "parameters"}, {}, "parameters does not go with .* ddp"),
    ({"strategy": "fsdp", "offload": "optimizer"}, {}, "optimizer does not go with .* fsdp"),
    ({"strategy": "zero_1", "offload": "parameters"}, {}, "does not go with scale.strategy zero_1"),
    ({"strategy": "zero_2", "offload": "parameters"}, {}, "does not go with scale.strategy zero_2"),
    ({"device": "cpu"}, {"precision": "fp16"}, "training.precision fp16 needs a GPU"),
    ({"strategy": "fsdp"}, {"precision": "fp16"}, "fp16 goes with scale.strategy ddp only"),
    ({"strategy": "zero_2"}, {"precision": "fp16"}, "loss scale of zero_2 .*: take bf16"),
    ({"strategy": "zero_3"}, {"compile": True}, "compile .* zero_3, .*: take fsdp"),
]


@pytest.mark.parametrize(("scale", "training", "told"), REFUSED)
def test_what_does_not_go_together_is_refused_by_name(scale, training, told):
    with pytest.raises(ValueError, match=told):
        job(scale=scale, training=training)


@pytest.mark.parametrize(
    ("scale", "training"),
    [
        ({}, {"precision": "fp16", "compile": True}),
        ({"strategy": "fsdp", "offload": "parameters"}, {"precision": "bf16", "compile": True}),
        ({"strategy": "zero_2", "offload": "optimizer"}, {"precision": "bf16", "compile": True}),
        ({"strategy": "zero_3", "offload": "parameters"}, {"precision": "bf16"}),
    ],
)
def test_what_goes_together_is_taken(scale, training):
    made = job(scale=scale, training=training)
    assert made.scale.strategy == scale.get("strategy", "ddp")
