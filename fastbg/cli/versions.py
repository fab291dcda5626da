"""`fastbg --version`: versions of fastbg and of the packages that results depend on.

As for all arguments, none of these packages is imported.
"""

import argparse
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from fastbg.version import __version__


class Versions(argparse.Action):
    """Prints the versions of fastbg and of what results depend on, without importing them."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print versions and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and exit."""
        print(f"fastbg {__version__}")
        for name, told in versions().items():
            print(f"  {name} {told}")
        parser.exit()


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, by name."""
    found = {"Python": f"{platform.python_version()} on {platform.platform()}"}
    for package in ("torch", "triton", "numpy", "scipy", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    for name, module in {"C++": "fastbg._cpu", "CUDA": "fastbg._cuda"}.items():
        found[name] = "kernels built" if find_spec(module) else "kernels not built"
    return found
