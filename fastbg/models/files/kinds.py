"""Recognises a file by its first bytes: one of three weights formats, or something else.

Other formats are refused with their name and the way to convert them.
"""

import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fastbg.errors import CheckpointError
from fastbg.printable import printable

ZIP, LEGACY, SAFETENSORS = "torch.save (zip)", "torch.save (before 1.6)", "safetensors"

HEAD = 4096  # bytes that are read to recognise the format
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
MOST_DIRECTORY = 4 << 20  # bytes of a zip's table of contents: some 40,000 entries

WRAP = "build the network in PyTorch, and pass it to fastbg.wrap(module, scale=...)"
CONVERT = f"convert it to PyTorch weights, or {WRAP}"
JOIN = "join them into one file first (safetensors.torch.save_file of all their tensors)"
PART = re.compile(r"-\d+-of-\d+\.|\.distcp$")  # model-00001-of-00003.safetensors
UNPACK = "unpack it, and pass the weights file inside"

# First bytes of other formats.
MAGIC: Sequence[tuple[bytes, str, str]] = (
    (b"version https://git-lfs", "a git LFS pointer, not the weights", "fetch it: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or another framework)", CONVERT),
    (b"GGUF", "a GGUF file", CONVERT),
    (b"lmgg", "a GGML file", CONVERT),
    (b"tjgg", "a GGML file", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"7767517", "an ncnn network (.param)", f"ncnn keeps no PyTorch weights: {WRAP}"),
    (b"\x47\x6b\x30\x01", "weights of ncnn (.bin)", f"ncnn keeps no PyTorch names: {WRAP}"),
    (b"\x38\x4b\x0d\x00", "weights of ncnn (.bin)", f"ncnn keeps no PyTorch names: {WRAP}"),
    (b"ptrt", "a TensorRT engine", f"an engine runs on its GPU only: {WRAP}"),
    (b"ftrt", "a TensorRT engine", f"an engine runs on its GPU only: {WRAP}"),
    (b"MATLAB 5.0", "a MATLAB file", CONVERT),
    (b"\x89PNG", "an image", "pass a weights file"),
    (b"\xff\xd8\xff", "an image", "pass a weights file"),
    (b"%PDF", "a PDF", "pass a weights file"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"7z\xbc\xaf", "a 7-zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"(\xb5/\xfd", "a zstandard archive", UNPACK),
)
# Suffixes of formats that cannot be recognised by their first bytes.
SUFFIXES: dict[str, tuple[str, str]] = {
    ".onnx": ("an ONNX graph", f"ONNX keeps no PyTorch names: {WRAP}"),
    ".engine": ("a TensorRT engine", f"an engine runs on its GPU only: {WRAP}"),
    ".plan": ("a TensorRT engine", f"an engine runs on its GPU only: {WRAP}"),
    ".trt": ("a TensorRT engine", f"an engine runs on its GPU only: {WRAP}"),
    ".param": ("an ncnn network (.param)", f"ncnn keeps no PyTorch weights: {WRAP}"),
    ".pb": ("a TensorFlow graph", CONVERT),
    ".tflite": ("a TensorFlow Lite network", CONVERT),
    ".mlmodel": ("a Core ML network", CONVERT),
    ".msgpack": ("weights of Flax", CONVERT),
    ".pdparams": ("weights of PaddlePaddle", CONVERT),
    ".pdmodel": ("a network of PaddlePaddle", CONVERT),
    ".caffemodel": ("a network of Caffe", CONVERT),
    ".index": ("a part of a TensorFlow checkpoint", CONVERT),
}
# Contents of zip files that were not written by torch.save.
ZIPPED: Sequence[tuple[Callable[[str], bool], str, str]] = (
    (
        lambda name: name.endswith("/constants.pkl") or "/code/" in name,
        "a TorchScript program",
        "load it with torch.jit.load, and pass that to fastbg.wrap(module, scale=...)",
    ),
    (
        lambda name: "serialized_exported_program" in name or "/models/model.json" in name,
        "a program of torch.export",
        "load it with torch.export.load(...).module(), and pass that to fastbg.wrap(module, ...)",
    ),
    (lambda name: name.endswith(".npy"), "NumPy arrays (.npz)", CONVERT),
    (lambda name: name.endswith("model.weights.h5"), "a network of Keras", CONVERT),
)


def recognise_file(path: Path) -> str:
    """ZIP, LEGACY or SAFETENSORS; CheckpointError, which says what `path` is instead."""
    if path.is_dir():
        raise CheckpointError(
            f"{printable(path)} is a folder; pass the weights file{_weights_inside(path)}"
        )
    if not path.is_file():
        raise CheckpointError(f"{printable(path)} is no regular file")
    if PART.search(path.name):
        raise CheckpointError(f"{printable(path)} is a part of weights in several files; {JOIN}")
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise CheckpointError(f"{printable(path)} cannot be read: {error.strerror}") from error
    if head.startswith(b"PK"):
        return _zip_kind(path)
    if head.startswith(LEGACY_MAGIC):
        return LEGACY
    if _has_tensor_header(path, head):
        return SAFETENSORS
    what, remedy = _foreign(path, head)
    if what:
        raise CheckpointError(f"{printable(path)} is {what}; {remedy}")
    if path.suffix.lower() == ".safetensors":  # damaged, which its reader explains
        return SAFETENSORS
    raise CheckpointError(
        f"{printable(path)} is damaged, or no weights file: it begins with {head[:8]!r}; expected "
        "what torch.save or safetensors writes"
    )


def _foreign(path: Path, head: bytes) -> tuple[str, str]:
    """Name of the file's format and what to do about it; empty if unknown."""
    if not head:
        return "empty", "copy or download it again"
    for magic, what, remedy in MAGIC:
        if head.startswith(magic):
            return what, remedy
    if head[4:8] == b"TFL3":
        return SUFFIXES[".tflite"]
    if head[257:262] == b"ustar":
        return "a tar archive", UNPACK
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page, not the weights", "download the file itself"
    if text.startswith(b"<"):
        return "XML", "pass a weights file (of OpenVINO's networks, the PyTorch weights)"
    if text.startswith(b"{"):
        if b"weight_map" in head or path.name.endswith(".index.json"):
            return "the index of weights in several files", JOIN
        return "JSON", "pass a weights file"
    if path.suffix.lower() in SUFFIXES:
        return SUFFIXES[path.suffix.lower()]
    if head[0] == 8 and head[1:2] <= b"\x20" and head[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        return SUFFIXES[".onnx"]
    if path.suffix.lower() == ".bin" and path.with_suffix(".param").is_file():
        return "weights of ncnn (.bin)", f"ncnn keeps no PyTorch names: {WRAP}"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return (
            "a plain pickle, which may run code and is never loaded",
            "if you trust it, save its tensors with torch.save or safetensors",
        )
    return "", ""


def _has_tensor_header(path: Path, head: bytes) -> bool:
    """Whether the file begins as safetensors do: the length of a JSON object, then that."""
    (length,) = struct.unpack("<Q", head[:8]) if len(head) > 8 else (0,)
    return head[8:9] == b"{" and length <= path.stat().st_size


def _zip_kind(path: Path) -> str:
    """ZIP, if torch.save wrote it and its records cannot grow when they are read."""
    records = zip_records(path)
    names = [record.filename for record in records]
    for holds, what, remedy in ZIPPED:
        if any(holds(name) for name in names):
            raise CheckpointError(f"{printable(path)} is {what}; {remedy}")
    if not any(name.endswith("data.pkl") for name in names):
        inside = ", ".join(map(printable, names[:3]))
        raise CheckpointError(f"{printable(path)} is a zip archive ({inside} ...); {UNPACK}")
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    claimed = sum(record.file_size for record in records)
    if packed or claimed > path.stat().st_size:
        why = f"{packed[0]} is compressed" if packed else f"its records claim {claimed:,} bytes"
        raise CheckpointError(f"{printable(path)} is no file that torch.save writes: {why}")
    return ZIP


def zip_records(path: Path) -> list[zipfile.ZipInfo]:
    """The table of contents; CheckpointError if it is damaged, or too long to be honest."""
    try:
        with path.open("rb") as stream:
            length = _directory_length(stream.seek(0, 2), stream)
        if length > MOST_DIRECTORY:
            raise CheckpointError(
                f"{printable(path)}: its table of contents is {length:,} bytes long"
            )
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{printable(path)} is damaged, or cut off: {error}") from error


def _directory_length(size: int, stream: object) -> int:
    """Bytes of a zip's table of contents, as the record at its end tells."""
    start = max(0, size - 66_000)
    stream.seek(start)  # type: ignore[attr-defined]
    tail: bytes = stream.read()  # type: ignore[attr-defined]
    end, end64 = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    if end < 0:
        raise zipfile.BadZipFile("it has no table of contents")
    (length,) = struct.unpack_from("<I", tail, end + 12)
    if end64 >= 0:
        length = max(length % 0xFFFFFFFF, struct.unpack_from("<Q", tail, end64 + 40)[0])
    return int(length)


def _weights_inside(folder: Path) -> str:
    """Which files of `folder` look like weights, in words."""
    suffixes = (".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl")
    try:
        names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in suffixes)
    except OSError:
        names = []
    return f" inside: {', '.join(map(printable, names[:4]))}" if names else ", not what holds it"
