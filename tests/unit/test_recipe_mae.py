import pytest
import torch
from safetensors.torch import save_file
from small_runs import MODEL

from tap_platform.models import Tap, TapConfig
from tap_platform.recipes.mae import load_mae_weights

DIM = MODEL["encoder_dim"]


@pytest.fixture
def encoder():
    """Four blocks on a grid of 4 x 4 patches."""
    return Tap(TapConfig(**MODEL)).image_encoder


def timm_weights(side=4, depth=4, patch=16, dim=DIM):
    """What timm's masked autoencoders hold, drawn at random."""

    def drawn(*shape):
        return torch.randn(shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    state = {
        "cls_token": drawn(1, 1, dim),
        "pos_embed": drawn(1, 1 + side * side, dim),
        "patch_embed.proj.weight": drawn(dim, 3, patch, patch),
        "patch_embed.proj.bias": drawn(dim),
        "norm.weight": drawn(dim),
        "norm.bias": drawn(dim),
    }
    shapes = {
        "norm1": (dim,),
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "norm2": (dim,),
        "mlp.fc1": (4 * dim, dim),
        "mlp.fc2": (dim, 4 * dim),
    }
    for block in range(depth):
        for name, shape in shapes.items():
            state[f"blocks.{block}.{name}.weight"] = drawn(*shape)
            state[f"blocks.{block}.{name}.bias"] = drawn(shape[0])
    return state


def saved(folder, state):
    path = folder / "mae.safetensors"
    save_file(state, path)
    return path


def test_what_the_file_holds_is_copied_and_the_rest_stays_as_made(encoder, tmp_path):
    made = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    source = timm_weights()
    report = load_mae_weights(encoder, saved(tmp_path, source))
    state = encoder.state_dict()
    for name in set(source) - {"cls_token", "pos_embed"}:
        torch.testing.assert_close(state[name], source[name], rtol=0, atol=0)
    torch.testing.assert_close(state["pos_embed.weight"], source["pos_embed"][0, 1:])
    assert report.unused == ["cls_token"]
    assert set(report.loaded) | set(report.made) == set(state)
    assert all("rel_pos" in n or n.startswith(("cross_conv", "neck")) for n in report.made)
    for name in report.made:
        torch.testing.assert_close(state[name], made[name], rtol=0, atol=0)


def test_a_torch_file_with_the_weights_under_model_is_read(encoder, tmp_path):
    source = timm_weights()
    torch.save({"model": source, "epoch": 800}, tmp_path / "mae.pth")
    load_mae_weights(encoder, tmp_path / "mae.pth")
    torch.testing.assert_close(encoder.norm.weight.detach(), source["norm.weight"])


def test_the_position_table_is_resized_without_the_class_token(encoder, tmp_path):
    source = timm_weights(side=8)
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    source["pos_embed"][0, 0] = 1e6
    source["pos_embed"][0, 1:, 0] = rows.flatten()
    source["pos_embed"][0, 1:, 1] = columns.flatten()
    load_mae_weights(encoder, saved(tmp_path, source))
    table = encoder.pos_embed.weight.detach().reshape(4, 4, DIM)
    # Cell i of 4 lies at 2 i + 0.5 of 8; at the border the cubic kernel bends the ramp a little.
    ramp = torch.tensor([0.5, 2.5, 4.5, 6.5])
    torch.testing.assert_close(table[:, :, 0], ramp[:, None].expand(4, 4), rtol=0, atol=0.15)
    torch.testing.assert_close(table[:, :, 1], ramp[None].expand(4, 4), rtol=0, atol=0.15)


def test_a_patch_kernel_of_another_size_is_resized(encoder, tmp_path):
    source = timm_weights(patch=14)
    source["patch_embed.proj.weight"][:] = torch.arange(DIM)[:, None, None, None]
    load_mae_weights(encoder, saved(tmp_path, source))
    kernel = encoder.patch_embed.proj.weight.detach()
    assert kernel.shape == (DIM, 3, 16, 16)
    torch.testing.assert_close(kernel[5], torch.full((3, 16, 16), 5.0))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (timm_weights(dim=48), r"blocks\.0\.\S+ \[\S*48.*\], expected \[.*32"),
        (timm_weights(depth=2), r"no blocks\.2\.norm1\.weight"),
        ({"visual.conv1.weight": torch.zeros(3)}, r"no blocks\.0\.norm1\.weight"),
    ],
)
def test_weights_of_another_model_are_refused_and_nothing_is_loaded(
    encoder, tmp_path, state, message
):
    before = encoder.norm.weight.detach().clone()
    path = saved(tmp_path, state)
    with pytest.raises(ValueError, match=message) as error:
        load_mae_weights(encoder, path)
    assert str(error.value).startswith(f"recipe.mae_weights {path}: does not fit")
    torch.testing.assert_close(encoder.norm.weight.detach(), before)


def test_files_that_are_no_weights_are_refused(encoder, tmp_path):
    for name in ("mae.safetensors", "mae.pth"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=rf"recipe\.mae_weights \S*{name}: cannot be read"):
            load_mae_weights(encoder, tmp_path / name)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        load_mae_weights(encoder, tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"missing\.pth: cannot be read: .*No such file"):
        load_mae_weights(encoder, tmp_path / "missing.pth")
