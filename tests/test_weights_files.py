"""Damaged, lying and foreign files: named at once, in little memory, and nothing is run."""

import json
import pickle
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fastbg
from fastbg.errors import CheckpointError
from fastbg.models.edsr import EDSR
from fastbg.models.files.kinds import LEGACY_MAGIC
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

MEGABYTES, SECONDS = 100, 1.0
STATUS = Path("/proc/self/status")


def memory(line: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since the last reset."""
    return int(STATUS.read_text().split(f"{line}:")[1].split()[0]) / 1024


def refused(path: Path, message: str | None = None) -> None:
    """CheckpointError that names the file, within a second of this process and 100 MB."""
    measured = Path("/proc/self/clear_refs").exists()
    if measured:
        Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS") if measured else 0.0, time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        fastbg.load_model(path)
    assert time.process_time() - start < SECONDS
    assert str(path) in str(caught.value)
    if measured:
        assert memory("VmHWM") - before < MEGABYTES


# What a file of ours says of itself --------------------------------------------------------------

NETWORKS: dict[str, Callable[[], Network]] = {
    "edsr": lambda: EDSR(features=4, blocks=2),
    "rcan": lambda: RCAN(features=4, groups=2, blocks=1, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(2, 2), heads=(2, 2), window=4),
}
NUMBERS = ("a", None, [1], {}, float("nan"), float("inf"), 10**400, True)
SIZES = (*NUMBERS, 4.5, 0, -1, 200_000, 10**6, 10**30)
LIES: dict[str, dict[str, tuple[Any, ...]]] = {
    "edsr": {
        **dict.fromkeys(("features", "blocks", "scale"), SIZES),
        "res_scale": NUMBERS,
        "img_range": (*NUMBERS, 0, -1, 1e-300, 1e30),
        "mean": (
            *NUMBERS,
            [0.1] * 4,
            [],
            [None] * 3,
            [float("nan")] * 3,
            "abc",
            {"0": 1},
            [[1]] * 3,
        ),
        "depth": (1,),
        "": (1,),
    },
    "rcan": {
        **dict.fromkeys(("groups", "squeezed"), SIZES),
        "pooling": (*NUMBERS, -1, 1.5),
    },
    "swinir": {
        **dict.fromkeys(("window", "width"), SIZES),
        "mlp_ratio": (*NUMBERS, 0, -1, 1e30),
        "upsampler": (*NUMBERS, "nearest+conv", "pixelshuffle"),
        "features": (*NUMBERS, 0, -1),
        **{
            key: (*NUMBERS, [2], [2] * 3, [2] * 10_000, [200_000, 2], [2, [2]], "22", [2.0, 2], [])
            for key in ("depths", "heads")
        },
    },
}


def written(net: Network, about: str, folder: Path) -> Path:
    """A safetensors file of `net` whose metadata is `about`."""
    path = folder / "lie.safetensors"
    save_file(net.state_dict(), path, {"fastbg": about})
    return path


@pytest.mark.parametrize(("name", "key"), [(n, key) for n, lies in LIES.items() for key in lies])
def test_lies_about_the_network(name: str, key: str, tmp_path: Path) -> None:
    net = NETWORKS[name]()
    for value in LIES[name][key]:
        about = {"architecture": name, "config": {**net.config, key: value}}
        refused(written(net, json.dumps(about), tmp_path), f"as {name}")


def test_a_ratio_that_gives_other_whole_channels_is_a_lie(tmp_path: Path) -> None:
    """Of width 8: 2.4 gives 19 hidden channels, the tensors have 16."""
    net = NETWORKS["swinir"]()
    about = {"architecture": "swinir", "config": {**net.config, "mlp_ratio": 2.4}}
    refused(written(net, json.dumps(about), tmp_path), r"says mlp_ratio 2\.4, its tensors say 2\.0")


def test_the_truth_is_believed(tmp_path: Path) -> None:
    for name, make in NETWORKS.items():
        about = {"architecture": name, "config": make().config, "card": {}}
        net = fastbg.load_model(written(make(), json.dumps(about), tmp_path))
        assert net.config == make().config


@pytest.mark.parametrize(
    "about",
    [
        *("", "[", "NaN", "null", "0", "false", '"text"', "[]", "1" * 5000),
        *("[" * 200_000, '{"a":' * 100_000, "[" * 900 + "]" * 900),
        '{"architecture": ["edsr"], "config": {}}',
        '{"architecture": "edsr", "config": [1]}',
        '{"architecture": "edsr", "config": {}}',
        json.dumps({"architecture": "x" * 10**6, "config": {}}),
        json.dumps({"architecture": "edsr", "config": dict.fromkeys(map(str, range(50_000)))}),
    ],
    ids=lambda text: text[:24],
)
def test_metadata_that_is_no_description(about: str, tmp_path: Path) -> None:
    refused(written(NETWORKS["edsr"](), about, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "kinds"),
    [
        ("card", [1], ("list", "dict")),
        ("architecture", 3, ("int", "str")),
        ("config", "x", ("str", "dict")),
    ],
)
def test_metadata_of_the_wrong_kind(
    key: str, value: Any, kinds: tuple[str, str], tmp_path: Path
) -> None:
    net = NETWORKS["edsr"]()
    about = {"architecture": "edsr", "config": net.config, "card": {}, key: value}
    message = rf"{key} of its 'fastbg' metadata is a {kinds[0]}; expected a {kinds[1]}"
    refused(written(net, json.dumps(about), tmp_path), message)


def test_a_file_from_before_an_option_has_its_default(tmp_path: Path) -> None:
    """RCAN's pooling came later than the format."""
    net = NETWORKS["rcan"]()
    config = {key: value for key, value in net.config.items() if key != "pooling"}
    about = json.dumps({"architecture": "rcan", "config": config})
    assert fastbg.load_model(written(net, about, tmp_path)).config == net.config
    del config["blocks"]
    about = json.dumps({"architecture": "rcan", "config": config})
    refused(written(net, about, tmp_path), "does not tell.*blocks")


# Tensors that are not what they seem -------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"body.199999.conv1.weight": torch.zeros(4, 4, 3, 3)}, r"lacks body\.2\.conv1"),
        ({f"body.{'9' * 5000}.conv1.weight": torch.zeros(4, 4, 3, 3)}, r"lacks body\.2\.conv1"),
        ({"conv_first.weight": torch.zeros(1).expand(10**7, 3, 3, 3)}, "claims 1,080,"),
        ({"conv_first.weight": torch.zeros(10**5, 3, 3, 3)}, "wrong shapes"),
        ({"conv_last.bias": torch.zeros(3).to_sparse()}, "without plain values"),
        ({"conv_last.bias": torch.zeros(3, device="meta")}, "without plain values"),
        ({"conv_last.bias": torch.zeros(3, dtype=torch.int8)}, "int8"),
        (
            {"conv_last.bias": torch.zeros(3, dtype=torch.int8)},
            r"as edsr has other than floats \(it may be quantised\): conv_last\.bias int8",
        ),
        ({"conv_last.bias": torch.zeros(3, dtype=torch.bool)}, "bool"),
        ({"conv_last.bias": torch.zeros(3).to(torch.float8_e4m3fn)}, "float8"),
        ({"conv_last.bias": torch.full((3,), 1e300, dtype=torch.float64)}, "NaN or infinity"),
        ({"upsample.0.weight": torch.zeros(16, 0, 3, 3)}, "no real numbers"),
        (
            {"conv_last.weight": torch.zeros(3, 4)},
            r"has conv_last\.weight of shape \(3, 4\), not of 4 dimensions",
        ),
        (
            {
                "conv_first.weight": torch.zeros(4, 1, 3, 3),
                "conv_last.weight": torch.zeros(1, 4, 3, 3),
                "conv_last.bias": torch.zeros(1),
            },
            r"maps 1 channels to 1 \(grey or luma images\).*fastbg\.wrap",
        ),
    ],
)
def test_tensors_that_lie(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save({**NETWORKS["edsr"]().state_dict(), **changes}, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", message)


# Pickles and archives ----------------------------------------------------------------------------


def archive(content: bytes, folder: Path, packed: bool = False) -> Path:
    """A file like torch.save's, with `content` for its pickle."""
    path = folder / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
    return path


def legacy(content: bytes, folder: Path) -> Path:
    """A file like those of torch.save before 1.6."""
    path = folder / "net.pth"
    path.write_bytes(LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + content)
    return path


@pytest.mark.parametrize("writer", [archive, legacy])
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02" + b"]" * 250_000 + b"a" * 249_999 + b".",
        b"\x80\x02" + b"]" * (15 << 20) + b".",
        b"\x80\x02X" + struct.pack("<I", 14 << 20) + b"a" * (14 << 20) + b".",
        b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b"a.",
        b"\x80\x02c" + b"a" * (14 << 20),
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
        b"\x80\x02(" * 1000,
        b"",
    ],
    ids=["nested", "many", "long", "short", "name", "integer", "marks", "empty"],
)
def test_pickles_that_ask_for_too_much(
    content: bytes, writer: Callable[[bytes, Path], Path], tmp_path: Path
) -> None:
    refused(writer(content, tmp_path))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_flipped_bits_are_noticed(name: str, tmp_path: Path) -> None:
    """Wherever in the tensors: both formats hold checksums of them."""
    net, path = NETWORKS["edsr"](), tmp_path / name
    if name == "net.pth":
        torch.save({"params": net.state_dict()}, path)
    else:
        fastbg.save_model(net, path)
    content, state = path.read_bytes(), fastbg.load_model(path).state_dict()
    flipped = 0
    for place in range(len(content) // 40, len(content), len(content) // 40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = fastbg.load_model(path).state_dict()
        except CheckpointError:
            flipped += 1
        else:  # the padding between records, or the card
            assert all(torch.equal(found[key], value) for key, value in state.items())
    assert flipped > 20


def test_other_protocols_are_named(tmp_path: Path) -> None:
    state = NETWORKS["edsr"]().state_dict()
    torch.save(state, tmp_path / "net.pth", pickle_protocol=4)
    refused(tmp_path / "net.pth", "another protocol than 2")


@pytest.mark.parametrize("writer", [archive, legacy])
def test_no_setting_of_torch_makes_a_pickle_run(
    writer: Callable[[bytes, Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable makes torch.load read anything where nobody says weights_only."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    harm = tmp_path / "harm"
    call = b"\x80\x02cio\nopen\nX" + struct.pack("<I", len(str(harm))) + str(harm).encode()
    refused(writer(call + b"X\x01\x00\x00\x00w\x86R.", tmp_path))
    assert not harm.exists()


def test_the_reason_is_one_line_without_torchs_advice(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fastbg.load_model(archive(b"\x80\x02h\x07.", tmp_path))
    said = str(caught.value)
    assert "\n" not in said
    assert not re.search("weights_only|Unpickler|trust", said)
    assert said.rpartition("never run: ")[2]
    refused(archive(b"", tmp_path), "never run: pickle exhausted")
    # torch gives its reason after lines of advice. A list has no state to set.
    refused(archive(b"\x80\x02]K\x01b.", tmp_path), "never run: Can only build Tensor")


def test_a_changed_byte_of_an_archive_is_named(tmp_path: Path) -> None:
    torch.save(NETWORKS["edsr"]().state_dict(), tmp_path / "net.pth")
    content = bytearray((tmp_path / "net.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "net.pth").write_bytes(content)
    refused(tmp_path / "net.pth", "checksum of .*data/.* is not that of its bytes")


def test_long_tables_of_contents_of_large_archives(tmp_path: Path) -> None:
    """Of more than 4 GB: the length is in a second record, and the first holds only ones."""
    path = tmp_path / "net.pth"
    for length in (2**32, 2**63, 5 << 20):
        second = b"PK\x06\x06" + bytes(36) + struct.pack("<QQ", length, 0)
        first = b"PK\x05\x06" + b"\xff" * 16 + bytes(2)
        path.write_bytes(b"PK\x03\x04" + bytes(100) + second + first)
        refused(path, f"table of contents is {length:,} bytes")


def test_of_a_large_archive_only_the_end_is_read(tmp_path: Path) -> None:
    """A sparse file: all of it would take more memory than `refused` allows."""
    path = tmp_path / "net.pth"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(2 * MEGABYTES << 20)
        file.write(b"PK\x05\x06" + bytes(8) + struct.pack("<I", 5 << 20) + bytes(6))
    refused(path, "table of contents is 5,242,880 bytes")


def test_archives_that_grow(tmp_path: Path) -> None:
    refused(archive(b"\x80\x02" + bytes(200 << 20), tmp_path, packed=True), "is compressed")
    path = tmp_path / "many.pth"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(80_000):
            file.writestr(f"archive/data/{number}", "")
    refused(path, "table of contents")


@pytest.mark.parametrize("length", [99_000_000, 2**63, 2**64 - 1])
def test_headers_of_safetensors_that_are_too_long(length: int, tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b'{"a":' + b" " * min(length, 99_000_000) + b"}")
    refused(path, "header")


def test_objects_beside_the_tensors_are_inert(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    state = NETWORKS["edsr"]().state_dict()
    torch.save({"params": state, "beside": Call()}, tmp_path / "net.pth")
    assert fastbg.load_model(tmp_path / "net.pth").config["blocks"] == 2
    assert not (tmp_path / "harm").exists()


# Other formats -----------------------------------------------------------------------------------

FOREIGN = {
    "pointer.pth": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "git LFS pointer.*git lfs pull",
    ),
    "page.pth": (b"\n<!DOCTYPE html><html>", "web page"),
    "empty.pth": (b"", "is empty"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch", r"ONNX graph.*fastbg\.wrap"),
    "renamed.pth": (b"\x08\x07\x12\x07pytorch", "ONNX graph"),
    "net.param": (b"7767517\n75 83\n", "ncnn"),
    "net.bin": (b"\x00\x00\x00\x00abcd", "ncnn"),  # beside net.param
    "half.bin": (b"\x47\x6b\x30\x01abcd", "ncnn"),
    "keras.h5": (b"\x89HDF\r\n\x1a\nxxx", "HDF5.*Keras"),
    "net.gguf": (b"GGUF\x03\x00", "GGUF"),
    "net.engine": (b"ptrt\x00", "TensorRT"),
    "net.tflite": (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
    "array.npy": (b"\x93NUMPY\x01\x00", "NumPy"),
    "net.pkl": (pickle.dumps({"a": 1}), "plain pickle"),
    "net.pth.gz": (b"\x1f\x8b\x08\x00", "gzip.*unpack"),
    "model.safetensors.index.json": (b'{"weight_map": {}}', "index of weights.*join"),
    "model-00001-of-00003.safetensors": (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "part of weights"),
    "net.xml": (b'<?xml version="1.0"?><net name="main">', "is XML; pass a weights file.*VINO"),
    "marked.pth": (b"\xef\xbb\xbf<html>", "is a web page, not the weights; download the file"),
    "head.pth": (b"<head><title>", "web page"),
    "notes.json": (b'{"a": 1}', "is JSON; pass a weights file"),
    "x.index.json": (b"{}", "index of weights.*join"),
    "net.tar": (bytes(257) + b"ustar\x0000", "is a tar archive; unpack"),
    "cut.pth": (b"PK\x03\x04", "cut off"),
    "text.pth": (b"hello", "damaged, or no weights file"),
    "short.safetensors": (b"\x01", "no readable safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_named(name: str, tmp_path: Path) -> None:
    content, message = FOREIGN[name]
    (tmp_path / "net.param").write_bytes(b"7767517\n")
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, message)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_programs_and_archives_are_named(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(str(tmp_path / "t.pt"))
    refused(tmp_path / "t.pt", r"TorchScript.*torch\.jit\.load.*fastbg\.wrap")
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    refused(tmp_path / "a.npz", "NumPy arrays")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("net.pth", "x")
    refused(tmp_path / "z.zip", r"zip archive \(net\.pth")


@pytest.mark.parametrize("second", [b"\x12", b"\x1a", b"\x3a", b"\x42"])
def test_onnx_graphs_begin_with_any_of_four_fields(second: bytes, tmp_path: Path) -> None:
    for version in (1, 0x20):
        (tmp_path / "net.pth").write_bytes(bytes([8, version]) + second + b"pytorch")
        refused(tmp_path / "net.pth", "ONNX graph")
    (tmp_path / "net.pth").write_bytes(b"\x08\x21" + second + b"pytorch")
    refused(tmp_path / "net.pth", "damaged, or no weights file")


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "safetensors", "bin", "pkl", "PTH"])
def test_weights_in_a_folder_are_listed(suffix: str, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.{suffix}").touch()
    (tmp_path / "notes.txt").touch()
    names = ", ".join(f"{number}.{suffix}" for number in range(4))
    refused(tmp_path, rf"the weights file inside: {names}$")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    refused(tmp_path, r"is a folder; pass the weights file inside: a\.pth")
    refused(Path("/dev/null"), "no regular file")
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        fastbg.load_model("a" * 300 + ".pth")
