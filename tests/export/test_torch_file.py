"""``.bin`` files: what torch.save writes is read exactly; nothing in a hostile file is imported or called."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from internvl_rt.errors import CheckpointError
from internvl_rt.export.checkpoint.torch_file import read_torch_file


def read_all(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.rows() for name, tensor in read_torch_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_types(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(5, 7).to(dtype)
    torch.save({"a": tensor}, tmp_path / "x.bin")
    found = read_all(tmp_path / "x.bin")["a"]
    np.testing.assert_array_equal(found.astype(np.float64), tensor.double().numpy())


def test_views_that_share_storages(tmp_path: Path) -> None:
    base = torch.randn(6, 8)
    state = {
        "whole": base,
        "transposed": base.T,
        "slice": base[1:5:2, 3:],
        "expanded": base[:1].expand(4, 8),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "scalar_row": base[2],
        "empty": torch.empty(0, 4),
        "zero_width": torch.empty(3, 0),
    }
    torch.save(state, tmp_path / "x.bin")
    found = read_all(tmp_path / "x.bin")
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)


def test_some_rows_in_another_order(tmp_path: Path) -> None:
    base = torch.randn(64, 33).T.contiguous().T  # columns are contiguous
    torch.save({"a": base}, tmp_path / "x.bin")
    tensor = read_torch_file(tmp_path / "x.bin")["a"]
    order = np.array([5, 63, 0, 7])
    np.testing.assert_array_equal(tensor.rows(order), base.numpy()[order])
    np.testing.assert_array_equal(tensor.rows(slice(3, 9)), base.numpy()[3:9])


def test_state_dict_of_a_module(tmp_path: Path) -> None:
    """It is an OrderedDict with ``_metadata`` hung on it, and has buffers that are no weights."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "x.bin")
    found = read_torch_file(tmp_path / "x.bin")
    np.testing.assert_array_equal(found["0.weight"].rows(), module[0].weight.detach().numpy())
    with pytest.raises(CheckpointError, match="int64"):
        found["1.num_batches_tracked"].rows()


def test_parameters_and_tensors_with_attributes(tmp_path: Path) -> None:
    """``dict(model.named_parameters())``, buffers, and tensors to which code has hung something."""
    state = {
        "parameter": torch.nn.Parameter(torch.randn(3, 4)),
        "half": torch.nn.Parameter(torch.randn(4, 6).half().T, requires_grad=False),
        "marked": torch.nn.Parameter(torch.randn(2, 5)),
        "tensor": torch.randn(2, 2),
        "buffer": torch.nn.Buffer(torch.randn(7)),
    }
    state["marked"].shard = 3
    state["tensor"].note = {"a": [1, None]}
    torch.save(state, tmp_path / "x.bin")
    found = read_all(tmp_path / "x.bin")
    assert set(found) == set(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.detach().numpy(), err_msg=name)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    tensor = torch.randn(4, 4)
    torch.save({"a": tensor, "epoch": 3}, tmp_path / "x.bin", pickle_protocol=protocol)
    np.testing.assert_array_equal(read_all(tmp_path / "x.bin")["a"], tensor.numpy())


def test_legacy_files_say_what_to_do(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"not a ZIP archive.*safetensors"):
        read_torch_file(tmp_path / "x.bin")


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """A file in torch's format around any pickle."""
    with zipfile.ZipFile(path, "w", changes.get("compression", zipfile.ZIP_STORED)) as file:
        file.writestr("x/data.pkl", data)
        file.writestr("x/byteorder", changes.get("byteorder", "little"))
        for key, content in (storages or {}).items():
            file.writestr(f"x/data/{key}", content)
    return path


class Calls:
    """Pickles into a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


class Sets:
    """Pickles into an object with state."""

    def __init__(self) -> None:
        self.state = 1


MARKER = "IVL_PICKLE_RAN"

HOSTILE: dict[str, tuple[Any, str]] = {
    "os.system": (Calls(os.system, f"touch {MARKER}"), "posix.system|os.system"),
    "eval": (Calls(eval, f"open('{MARKER}', 'w')"), r"builtin(s|__)\.eval"),
    "exec": (Calls(exec, f"open('{MARKER}', 'w')"), r"builtin(s|__)\.exec"),
    "getattr": (Calls(getattr, "a", "upper"), r"builtin(s|__)\.getattr"),
    "import": (Calls(__import__, "os"), r"builtin(s|__)\.__import__"),
    "nested in a dict": ({"a": {"b": [Calls(eval, "1")]}}, r"builtin(s|__)\.eval"),
    "nested in arguments": (
        Calls(collections.OrderedDict, [("a", Calls(eval, "1"))]),
        r"builtin(s|__)\.eval",
    ),
    "OrderedDict with arguments": (Calls(collections.OrderedDict, [("a", 1)]), "calls something other"),
    "an object of a class": (Sets(), "Sets|copyreg|copy_reg"),
    "torch.load": (Calls(torch.load, "x"), r"torch\.serialization\.load"),
    "a set": ({"a": {1, 2}}, r"EMPTY_SET|__builtin__\.set"),
    "a tuple key": ({(1, 2): 3}, "key that is no string"),
    "a list": ([1, 2], "not hold a dictionary"),
    "a dict of dicts": ({"model": {"a": 1}}, "flat dictionary"),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    value, message = HOSTILE[name]
    path = archive(tmp_path / "x.bin", pickle.dumps(value, protocol))
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(path)
    assert not (tmp_path / MARKER).exists()


def test_the_hostile_files_would_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above cannot pass because the pickles are harmless."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(HOSTILE["os.system"][0], 2))
    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02cbuiltins\neval\n\x85R.", r"builtins\.eval"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", r"builtins\.eval"),
        (b"\x80\x04}}\x93.", "not text"),
        (b"\x80\x02}Q.", "not a storage of numbers"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02)\x81.", "NEWOBJ"),
        (b"\x80\x02}\x81", "NEWOBJ"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "not a whole file"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "nothing"),
        (b"\x80\x02}", "not a whole file"),
        (b"\x80\x02.", "not a whole file"),
        (b"\x80\x02(" * 1000 + b"u.", "not a dictionary"),
        (b"", "not a whole file"),
        (b"\x80\x02" + b"(" + b"}" * 10 + b"t" + b"\x85" * 100000 + b".", "not hold a dictionary"),
    ],
)
def test_malformed_pickles(tmp_path: Path, program: bytes, message: str) -> None:
    path = archive(tmp_path / "x.bin", program)
    if message == "nothing":  # a memo index of two thousand millions costs nothing here
        assert read_torch_file(path) == {}
        return
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(path)


class Rebuilt:
    """Pickles into a tensor over a storage, with any numbers."""

    def __init__(self, **changes: Any) -> None:
        self.arguments = {"offset": 0, "shape": (2, 2), "strides": (2, 1), "elements": 4} | changes


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, tuple) and value and value[0] == "storage":
            return value
        return None

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Rebuilt):
            a = value.arguments
            storage = ("storage", torch.FloatStorage, "0", "cpu", a["elements"])
            return torch._utils._rebuild_tensor_v2, (
                storage,
                a["offset"],
                a["shape"],
                a["strides"],
                False,
                collections.OrderedDict(),
            )
        return NotImplemented


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": 1}, "beyond the end"),
        ({"shape": (3, 2)}, "beyond the end"),
        ({"strides": (3, 1)}, "beyond the end"),
        ({"offset": -1}, "impossible shape"),
        ({"strides": (-1, 1)}, "impossible shape"),
        ({"shape": (2,)}, "impossible shape"),
        ({"shape": (True, 2)}, "impossible shape"),
        ({"shape": (1 << 62, 2), "strides": (0, 1)}, "impossible shape"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "impossible shape"),
        ({"shape": [2, 2]}, "not a storage"),
        ({"offset": "0"}, "not a storage"),
        ({"elements": 5}, "16 bytes in the storage '0', where 20"),
        ({"elements": -4}, "not a storage of numbers"),
        ({"elements": 10**30}, "not a storage of numbers"),
    ],
)
def test_tensors_outside_of_their_storage(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    def write(**changes: Any) -> Path:
        data = io.BytesIO()
        Pickler(data, 2).dump({"a": Rebuilt(**changes)})
        return archive(tmp_path / "x.bin", data.getvalue(), {"0": struct.pack("<4f", 1, 2, 3, 4)})

    np.testing.assert_array_equal(read_all(write())["a"], [[1, 2], [3, 4]])
    with pytest.raises(CheckpointError, match=message):
        read_torch_file(write(**changes))


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    good = pickle.dumps({}, 2)
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch_file(archive(tmp_path / "a.bin", good, byteorder="big"))
    with pytest.raises(CheckpointError, match="compressed"):
        read_torch_file(archive(tmp_path / "b.bin", good, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "c.bin", "w") as file:
        file.writestr("x/other", b"")
    with pytest.raises(CheckpointError, match=r"0 members named data\.pkl"):
        read_torch_file(tmp_path / "c.bin")


def test_truncated_files(tmp_path: Path) -> None:
    torch.save({"a": torch.randn(100, 100)}, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    for length in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.bin").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_torch_file(tmp_path / "x.bin")


def test_altered_files_are_read_or_refused(tmp_path: Path) -> None:
    """Any byte may be another one: the file is refused with a CheckpointError, or its tensors can be read."""
    torch.save({"a": torch.randn(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    rng = random.Random(0)
    path = tmp_path / "x.bin"
    refused = 0
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_all(path)
        except CheckpointError:
            refused += 1
    assert refused > 50
