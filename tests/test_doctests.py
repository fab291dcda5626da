"""Examples in docstrings print what they say, and the most used names have one."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import downsample
from fastbg.data.images import open_folder
from fastbg.measures.quality import psnr, ssim
from fastbg.stats.intervals import mean_interval

# The names that most users need, beside those below: each has an example in its docstring.
NAMES = [
    "AttributionResult",
    "CustomObjective",
    "CustomPath",
    "GaussianBlurPath",
    "GaussianLinearPath",
    "GradientDetector",
    "LinearPath",
    "LocalAttribution",
    "PixelSum",
    "Transform",
    "blur_path",
    "composite",
    "composite_lr",
    "conv3x3",
    "conv_gram",
    "gradient_detector",
    "gram",
    "gram_distance",
    "load_model",
    "mosaic",
    "path_integral",
    "pixel_mlp",
    "run_experiments",
    "save_model",
    "texture_gram",
    "use_precision",
    "window_attention",
    "wrap",
]
ALSO = (builtin_images, downsample, mean_interval, open_folder, psnr, ssim)
# Need Triton or Captum; have no docstrings; run when imported.
APART = ("fastbg.kernels", "fastbg.captum", "fastbg._", "fastbg.cli.__main__")
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring of the package that has an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(fastbg.__path__, "fastbg."):
        if info.name.startswith(APART):
            continue
        for found in finder.find(importlib.import_module(info.name)):
            if found.examples:
                yield found


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example_prints_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS).run(example, out=said.append)
    assert not said, "".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(fastbg, name)) or "")


@pytest.mark.parametrize("function", ALSO, ids=lambda function: function.__name__)
def test_documented_function_has_an_example(function: object) -> None:
    assert ">>> " in (inspect.getdoc(function) or "")
