import numba

from datamodules.decoding.compiled import compiled


def test_a_function_runs_without_a_place_for_its_code(monkeypatch):
    njit = numba.njit

    def without_cache(*functions, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*functions, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert compiled(lambda number: number + 1)(41) == 42
