"""An interruption is one wherever it comes."""

from __future__ import annotations

import pytest

from leakmech.core.errors import InterruptedRunError
from leakmech.runs.interrupt import interruptible, sigterm_interrupts


class Descriptor:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt


@pytest.mark.fault("X423", "runs", "Ctrl-C while a module is imported and a class is made", "is an interruption")
def test_an_interruption_that_python_wraps_is_one():
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        type("Made", (), {"field": Descriptor()})
    told = "run: interrupted; all is saved; continue with: the same call"
    saved = interruptible("run", lambda: "all is saved", "the same call")
    with pytest.raises(InterruptedRunError, match=told), saved:
        type("Made", (), {"field": Descriptor()})
    with pytest.raises(RuntimeError, match="another"), sigterm_interrupts():
        raise RuntimeError("another")
