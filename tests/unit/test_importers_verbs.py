import pytest
from importer_fixtures import write_grit, write_lvis, write_refcoco, write_visual_genome

from datamodules.importers import layouts

VERBS = {
    "lvis": (write_lvis, "imported 2 train images (4 regions) and 2 val images (4 regions)"),
    "visual-genome": (
        write_visual_genome,
        "imported 2 train images (4 regions) and 1 val images (2 regions); left out 1 images in no"
        " split, 1 images of other splits",
    ),
    "grit": (write_grit, "imported "),
    "refcoco": (
        write_refcoco,
        "imported 1 train images (2 regions) and 1 val images (1 regions); left out 1 references of"
        " split testA, 1 references of split testB",
    ),
}


@pytest.fixture
def tap_import(tap):
    """Run `tap data import`: exit status, and output and errors, each on one line."""

    def run(*arguments):
        status, *told = tap("data", "import", *arguments)
        return status, *(" ".join(each.split()) for each in told)

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_imports_and_tells_what_it_did(tap_import, tmp_path, verb):
    write, story = VERBS[verb]
    write(tmp_path / "source")
    status, output, errors = tap_import(verb, tmp_path / "source", tmp_path / "out")
    assert status == 0, errors
    assert story in output
    assert (tmp_path / "out/dataset.json").is_file()


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_error_show_the_layout(tap_import, tmp_path, verb):
    layout = " ".join(getattr(layouts, verb.replace("-", "_").upper()).split())
    status, shown, _ = tap_import(verb, "--help")
    assert status == 0
    assert layout in shown
    status, _, errors = tap_import(verb, tmp_path, tmp_path / "out")
    assert status == 2
    assert "missing: " in errors
    assert layout in errors
