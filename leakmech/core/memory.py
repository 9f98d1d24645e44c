"""Memory that was freed and that allocators keep for later."""

from __future__ import annotations

import ctypes
import os


def give_back() -> None:
    """Give freed memory back to the system: Arrow keeps that of its tables, glibc the gaps between what is in use."""
    import pyarrow as pa  # here, since it takes long to import

    pa.default_memory_pool().release_unused()
    if os.name == "posix":  # elsewhere there is no library of this process by no name
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
