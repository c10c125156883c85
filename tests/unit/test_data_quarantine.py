from concurrent.futures import ThreadPoolExecutor

import pytest

from datamodules.shards.records import BadSample
from datamodules.stream.quarantine import Quarantine, TooManyBadSamplesError


def bad(number=0):
    return BadSample("shard-000001.tar", f"key{number}", "the mask is broken")


def test_bad_samples_are_counted_listed_and_recorded():
    recorded = []
    quarantine = Quarantine(0.5, grace=0, on_bad=recorded.append)
    quarantine.good(dropped_regions=2)
    quarantine.good(dropped_regions=1)
    quarantine.bad(bad())
    assert quarantine.seen == 3
    assert quarantine.samples == recorded == [bad()]
    assert quarantine.dropped_regions == 3


def test_too_many_bad_samples_stop_with_the_first_of_them():
    quarantine = Quarantine(0.01, grace=3)
    for number in range(3):
        quarantine.bad(bad(number))
    with pytest.raises(TooManyBadSamplesError) as error:
        quarantine.bad(bad(3))
    message = str(error.value)
    assert isinstance(error.value, ValueError)
    assert "4 of 4 samples are bad (100.0%)" in message
    assert "1.0% that data.max_bad_fraction allows" in message
    assert "shard-000001.tar: key0: the mask is broken" in message
    assert "key3" not in message


def test_few_bad_samples_among_many_do_not_stop():
    quarantine = Quarantine(0.1, grace=0)
    for _ in range(9):
        quarantine.good()
    quarantine.bad(bad())
    with pytest.raises(TooManyBadSamplesError):
        quarantine.bad(bad())


def test_what_training_has_left_out_is_listed_and_stops_nothing():
    recorded = []
    quarantine = Quarantine(0.5, 0, recorded.append, left_out=frozenset({"key0", "key1"}))
    quarantine.bad(bad(0))
    quarantine.bad(bad(1))
    assert quarantine.samples == recorded == [bad(0), bad(1)]
    assert quarantine.seen == 2
    quarantine.good()
    quarantine.bad(bad(2))
    with pytest.raises(
        TooManyBadSamplesError, match=r"2 of 3 samples are bad .*\n.*key2: .*\n.*key3: "
    ):
        quarantine.bad(bad(3))


def test_threads_may_share_it():
    quarantine = Quarantine(1.0, grace=0)
    with ThreadPoolExecutor(8) as pool:
        for number in range(2000):
            pool.submit(quarantine.bad, bad(number)) if number % 2 else pool.submit(quarantine.good)
    assert quarantine.seen == 2000
    assert len(quarantine.samples) == 1000
