"""Runs one kernel of csrc/emulation/selftest.cu: ``emulation_selftest.py FOLDER KERNEL``."""

import ctypes
import sys
from pathlib import Path


class Selftest:
    """Kernels of csrc/emulation/selftest.cu, over float32 memory."""

    def __init__(self, folder: Path) -> None:
        self._library = ctypes.CDLL(str(folder / "lib_emulation_selftest.so"))
        self._library.run_kernel.restype = ctypes.c_char_p
        self._library.run_kernel.argtypes = [
            ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t,
            ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._library.set_backward.argtypes = [ctypes.c_bool]

    def run(
        self, kernel: str, blocks: int, threads: int, shared: int, source: int, to: int
    ) -> None:
        """Launch `kernel` with `shared` bytes on two addresses; RuntimeError with what broke."""
        message = self._library.run_kernel(kernel.encode(), blocks, threads, shared, source, to)
        if message is not None:
            raise RuntimeError(message.decode())

    def set_backward(self, backward: bool) -> None:
        """The threads of a block take turns from the last to the first."""
        self._library.set_backward(backward)


if __name__ == "__main__":
    source, to = ((ctypes.c_float * 64)() for _ in range(2))
    Selftest(Path(sys.argv[1])).run(
        sys.argv[2], 1, 64, 64 * 4, ctypes.addressof(source), ctypes.addressof(to)
    )
    print("finished")
