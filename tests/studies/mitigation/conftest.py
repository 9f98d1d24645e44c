"""Comparisons of mitigations in these tests read few texts."""

from __future__ import annotations

import pytest
from few_texts import few_texts


@pytest.fixture(scope="module", autouse=True)
def _few_texts():
    with pytest.MonkeyPatch.context() as patch:
        few_texts(patch)
        yield
