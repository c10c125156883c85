"""A damaged data set verified by Ray Data tasks: the report is that of one process."""

from datamodules.inspection.verification import verify
from tap_platform.config.data import ScenesSource
from tap_platform.launch.prepare import prepare_data
from tap_platform.launch.ray_session import joined_ray


def test_tasks_find_what_one_process_finds(tmp_path):
    prepare_data(ScenesSource(path=str(tmp_path), train_scenes=130, val_scenes=4, scene_size=64), 8)
    shards = sorted((tmp_path / "train").glob("*.tar"))
    shards[2].unlink()
    content = bytearray(shards[0].read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    shards[0].write_bytes(content)
    here = verify(str(tmp_path))
    seen = []
    with joined_ray(3):
        there = verify(str(tmp_path), workers=2, show=lambda done, of: seen.append((done, of)))
    assert there.as_dict() == here.as_dict()
    assert there.tally.bad == here.tally.bad
    assert len(here.tally.bad) > 10
    assert seen[-1] == (134, 134)
