"""Files that are hostile, damaged or not what they claim to be."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forge import write_checkpoint
from small_networks import small_network
from torch import nn

from detq.adapters import load_checkpoint
from detq.errors import CheckpointError
from detq.models import official

ARCHITECTURE = official("yolov6n_base", class_count=3)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    return write_checkpoint(folder / "x.pt", small_network(ARCHITECTURE), ARCHITECTURE)


def _archive(path: Path, program: bytes, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", program)
        for name, content in records.items():
            file.writestr(f"x/data/{name}", content)
    return path


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


class _Command:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_command_in_the_file_is_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    program = pickle.dumps({"model": _Command(target)}, protocol)
    path = _archive(tmp_path / "x.pt", program)
    _refused(path, "nothing in it was run")
    if protocol == 2:
        _refused(path, "refers to posix.system; not a YOLOv6 checkpoint")
    assert not target.exists()


def test_a_command_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps(_Command(tmp_path / "ran"), 2))
    _refused(path, "bare pickle", "nothing in it was run")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02ccollections\nOrderedDict\n}b.",  # attributes of a class
        b"\x80\x02cyolov6.models.yolo\nModel\n}b.",
        b"\x80\x02cyolov6.models.yolo\nModel\nK\x01\x85\x81.",  # an object with arguments
        b"\x80\x02ctorch\nHalfStorage\n)R.",  # a call of a storage class
        b"\x80\x02cyolov6.models.yolo\nModel\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02K\x01Q.",  # a storage that is a number
        b"\x80\x02}]]s.",  # a list as a key
        b"\x80\x02h\x07.",  # an empty memory slot
        b"\x80\x02X\xff\xff\xff\xffab.",  # a text longer than the file
        b"\x80\x02.",
        b"\x80\x02u.",
        b"",
    ],
)
def test_a_malformed_program_is_refused(tmp_path: Path, program: bytes) -> None:
    _refused(_archive(tmp_path / "x.pt", program), "nothing in it was run")


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    lists = b"\x80\x02" + b"(" * depth + b"]" + b"t" * depth + b"."
    _refused(_archive(tmp_path / "lists.pt", lists), "holds no network")
    module = b"cyolov6.models.yolo\nModel\n)\x81}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00a"
    modules = b"\x80\x02" + module * depth + b"N" + b"ssb" * depth + b"."
    _refused(_archive(tmp_path / "modules.pt", modules), "nests deeper than 32 levels")


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    program = (
        b"\x80\x02cyolov6.models.yolo\nModel\n)\x81q\x00}X\x08\x00\x00\x00_modules"
        b"}X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u".replace(b"}X\x01", b"}(X\x01")
        + b"sb."
    )
    _refused(_archive(tmp_path / "x.pt", program), "nests deeper")


def test_missing_paths_and_wrong_kinds_of_file_are_named(tmp_path: Path) -> None:
    _refused(tmp_path / "absent.pt", "No such file", "check the path")
    (tmp_path / "folder.pt").mkdir()
    _refused(tmp_path / "folder.pt", "Is a directory")
    (tmp_path / "empty.pt").touch()
    _refused(tmp_path / "empty.pt", "the file is empty")
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    _refused(tmp_path / "text.pt", "not a torch checkpoint")
    (tmp_path / "x.onnx").write_text("graph")
    _refused(
        tmp_path / "x.onnx",
        "unknown kind of model file '.onnx'",
        ".pt, .pth, .yaml, .yml, .safetensors",
    )
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as file:
        file.writestr("photos/a.jpg", b"")
    _refused(tmp_path / "photos.pt", "no data.pkl")


def test_a_state_dict_is_explained(tmp_path: Path) -> None:
    torch.save(small_network(ARCHITECTURE).state_dict(), tmp_path / "x.pt")
    _refused(tmp_path / "x.pt", "holds tensors only (a state dict)", "best_ckpt.pt")


def test_a_checkpoint_without_a_network_is_refused(tmp_path: Path) -> None:
    torch.save({"model": None, "epoch": 3}, tmp_path / "x.pt")
    _refused(tmp_path / "x.pt", "holds no network under `ema` or `model`")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, healthy: Path, share: float) -> None:
    content = healthy.read_bytes()
    path = tmp_path / "x.pt"
    path.write_bytes(content[: int(len(content) * share)])
    _refused(path, "damaged or cut short")


def test_a_compressed_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(50_000_000))
    _refused(path, "declares 50000000 bytes")


def _forge_with(path: Path, edit: Callable[[dict[str, nn.Module]], None]) -> Path:
    return write_checkpoint(path, small_network(ARCHITECTURE), ARCHITECTURE, edit=edit)


def _drop(modules: dict[str, nn.Module]) -> None:
    modules["neck.Rep_p3.conv1.block.bn"].weight = None


def _add(modules: dict[str, nn.Module]) -> None:
    modules["neck.Rep_p3"].register_buffer("offset", torch.zeros(3).half())


def _reshape(modules: dict[str, nn.Module]) -> None:
    modules["neck.Rep_n4.conv1.block.bn"].bias = nn.Parameter(torch.zeros(5).half())


def _poison(modules: dict[str, nn.Module]) -> None:
    modules["backbone.stem.block.bn"].bias.data[0] = float("nan")


def _invert(modules: dict[str, nn.Module]) -> None:
    modules["backbone.stem.block.bn"].running_var[0] = -1


def _count(modules: dict[str, nn.Module]) -> None:
    modules["backbone.stem.block.bn"].running_var = torch.ones(8, dtype=torch.int64)


def _restride(modules: dict[str, nn.Module]) -> None:
    modules["backbone.stem.block.conv"].stride = (1, 1)


def _misname(modules: dict[str, nn.Module]) -> None:
    modules[""].names = ["cat"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_drop, "tensor neck.Rep_p3.conv1.block.bn.weight is missing"),
        (_add, "tensor neck.Rep_p3.offset belongs to no part of the network"),
        (_reshape, "tensor neck.Rep_n4.conv1.block.bn.bias has shape [5], expected [8]"),
        (_poison, "tensor backbone.stem.block.bn.bias holds NaN"),
        (_invert, "tensor backbone.stem.block.bn.running_var holds a negative variance"),
        (_count, "tensor backbone.stem.block.bn.running_var holds int64"),
        (_restride, "backbone.stem.block.conv.stride is (1, 1), expected (2, 2)"),
        (_misname, "1 class names for 3 classes"),
    ],
)
def test_a_network_that_does_not_add_up_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, nn.Module]], None], message: str
) -> None:
    _refused(_forge_with(tmp_path / "x.pt", edit), message)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "problem"),
    [
        (0, (8, 3, 3, 3), (27, 9, 3, 1), "reaches beyond its storage of 5 numbers"),
        (0, (1 << 40, 1, 1, 1), (0, 0, 0, 0), "reaches beyond its storage"),
        (9, (0, 1, 1, 1), (1, 1, 1, 1), "begins beyond its storage"),
        (-1, (1, 1, 1, 1), (1, 1, 1, 1), "negative"),
        (0, (-1, 1, 1, 1), (1, 1, 1, 1), "negative"),
        (4, (2, 1, 1, 1), (-1, 1, 1, 1), "negative"),
        (0, (1, 1, 1, 1), (1, 1), "2 strides"),
        (0, (1,) * 20, (1,) * 20, "20 strides"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], problem: str
) -> None:
    from detq.adapters.archive import open_archive
    from detq.adapters.unpickle import Storage, StoredTensor

    path = _archive(tmp_path / "x.pt", b"\x80\x02N.", **{"0": bytes(10)})
    tensor = StoredTensor(Storage("0", "<f2", 5), offset, shape, strides)
    with (
        pytest.raises(CheckpointError, match=f"tensor stem.weight .*{problem}"),
        open_archive(path) as archive,
    ):
        archive.read("stem.weight", tensor)


def test_a_storage_of_another_size_is_refused(tmp_path: Path) -> None:
    from detq.adapters.archive import open_archive
    from detq.adapters.unpickle import Storage, StoredTensor

    path = _archive(tmp_path / "x.pt", b"\x80\x02N.", **{"0": struct.pack("<4e", 1, 2, 3, 4)})
    with open_archive(path) as archive:
        for count in (3, 5, 1 << 62):
            tensor = StoredTensor(Storage("0", "<f2", count), 0, (3,), (1,))
            with pytest.raises(CheckpointError, match="record 0 has 8 bytes, expected"):
                archive.read("stem.weight", tensor)


def _loads_or_refuses(path: Path) -> None:
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bytes_load_or_are_refused(tmp_path: Path, healthy: Path, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray(healthy.read_bytes())
    for _ in range(rng.choice((1, 5, 50))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    _loads_or_refuses(path)


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_program_loads_or_is_refused(tmp_path: Path, healthy: Path, seed: int) -> None:
    """The checksums are right here, so that the interpreter sees the change."""
    rng = random.Random(seed)
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(healthy) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = bytearray(source.read(name))
            if name.endswith("data.pkl"):
                for _ in range(rng.choice((1, 3))):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            target.writestr(name, bytes(content))
    _loads_or_refuses(path)
