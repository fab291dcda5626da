"""Triton's interpreter, made as unhelpful as a GPU: what a load masks out may hold anything.

The interpreter gives zeros there, so that a kernel which reads them by mistake passes its tests.
"""

from typing import Any

import numpy as np


def install() -> None:
    """From now on, lanes that a load masks out without `other` hold NaN, or all bits set."""
    from triton.runtime import interpreter

    plain = interpreter.InterpreterBuilder.create_masked_load
    if plain.__name__ == "poisoned":
        return

    def poisoned(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any, **named: Any) -> Any:
        if other is None:
            kind = ptrs.get_element_ty()
            dtype = np.dtype(interpreter._get_np_dtype(kind))
            bytes_ = np.full((*ptrs.data.shape, dtype.itemsize), 0xFF, np.uint8)
            other = interpreter.TensorHandle(bytes_.view(dtype).reshape(ptrs.data.shape), kind)
        return plain(self, ptrs, mask, other, *rest, **named)

    interpreter.InterpreterBuilder.create_masked_load = poisoned
