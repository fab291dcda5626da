"""The operators; importing this registers all of them with PyTorch, as torch.ops.fastbg."""

from fastbg.ops import attention as attention
from fastbg.ops import composite as composite
from fastbg.ops import conv as conv
from fastbg.ops import gram as gram
from fastbg.ops import path as path
