"""Files that ask to run code, or hold what is no weights."""

from __future__ import annotations

import codecs
import copyreg
import functools
import importlib
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

from tap_platform.models import load_released_weights


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


class Asks:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.made_by = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.made_by


def global_opcode(module, name):
    return f"\x80\x02c{module}\n{name}\n(X\x04\x00\x00\x00evil\x85R.".encode("latin1")


PAYLOADS = {
    "os.system": Asks(os.system, "touch evil"),
    "eval": Asks(eval, "open('evil', 'w')"),
    "exec": Asks(exec, "open('evil', 'w')"),
    "open": Asks(open, "evil", "w"),
    "import": Asks(importlib.import_module, "evil"),
    "getattr": Asks(getattr, [], "append"),
    "Popen": Asks(subprocess.Popen, ["touch", "evil"]),
    "numpy.save": Asks(np.save, "evil", np.zeros(1)),
    "numpy.load": Asks(np.load, "evil.npy", None, True),
    "partial": Asks(functools.partial, os.system, "touch evil"),
    "codec": Asks(codecs.encode, "6576696c", "hex"),
    "decode": Asks(codecs.decode, b"evil", "zip"),
    "set state": Asks(copyreg._reconstructor, dict, dict, {}, state={"a": 1}),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_asks_to_run_code_is_refused(tmp_path, monkeypatch, payload, protocol):
    monkeypatch.chdir(tmp_path)
    refusal = r"evil.pkl cannot be read.*(only numpy arrays are admitted|names the codec)"
    for content in (payload, {"a": payload}, {"a": np.zeros(2), "b": [payload]}):
        path = write(tmp_path / "evil.pkl", content, protocol)
        with pytest.raises(ValueError, match=refusal):
            load_released_weights(path)
    assert not (tmp_path / "evil").exists()


def test_code_inside_an_array_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.array([PAYLOADS["os.system"]], dtype=object)
    path = write(tmp_path / "evil.pkl", {"a": array})
    with pytest.raises(ValueError, match="an array of 'O8', not an array of numbers"):
        load_released_weights(path)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("numpy", "ndarray.__class__"),
        ("numpy.core", "multiarray.fromfile"),
        ("numpy", "memmap"),
        ("builtins", "__import__"),
        ("torch", "load"),
    ],
)
def test_names_that_look_like_numpy_are_no_way_in(tmp_path, monkeypatch, module, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(global_opcode(module, name))
    with pytest.raises(ValueError, match="only numpy arrays are admitted"):
        load_released_weights(tmp_path / "evil.pkl")
    assert os.listdir(tmp_path) == ["evil.pkl"]  # noqa: PTH208


def test_the_extension_registry_is_no_way_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("posix", "system", 240)
    try:
        (tmp_path / "evil.pkl").write_bytes(b"\x80\x02\x82\xf0X\x0a\0\0\0touch evil\x85R.")
        with pytest.raises(ValueError, match="only numpy arrays are admitted"):
            load_released_weights(tmp_path / "evil.pkl")
    finally:
        copyreg.remove_extension("posix", "system", 240)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": "text"}, "a is not an array"),
        ({"a": np.array(["text"])}, "an array of 'U4', not an array of numbers"),
        ({"a": np.array([None])}, "an array of 'O8', not an array of numbers"),
        ({"a": np.zeros(1, "f4,f4")}, "an array of 'V8', not an array of numbers"),
        ({1: np.zeros(2)}, "1 is a Tensor"),
        ([np.zeros(2)], "holds a list"),
    ],
)
def test_a_pickle_of_other_things_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_released_weights(write(tmp_path / "other.pkl", content))


def test_a_torch_file_that_asks_to_run_code_is_refused(tmp_path):
    torch.save({"a": PAYLOADS["os.system"]}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        load_released_weights(tmp_path / "evil.pth")
