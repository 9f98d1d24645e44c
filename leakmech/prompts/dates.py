"""The date that a chat template writes: that of the beginning of a run, also on the day after.

Templates of some models (Llama 3, gpt-oss) write the date into every prompt, as ``strftime_now("%d %b %Y")``. The
prompts of a run would be others on each day, and a run that was interrupted could not go on. Inside :func:`dated` the
date is that of the run that is made; of runs inside a run, that of the outer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

_ASKED = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_NOW: ContextVar[datetime | None] = ContextVar("date of chat templates", default=None)


@contextmanager
def dated(began: str | None) -> Iterator[None]:
    """Give chat templates the date of a run that `began` then (ISO 8601), or today's for None; an outer one stays."""
    if _NOW.get() is not None:
        yield
        return
    token = _NOW.set(datetime.fromisoformat(began).astimezone() if began else datetime.now().astimezone())
    try:
        yield
    finally:
        _NOW.reset(token)


def with_date(template: str) -> str:
    """A chat template in which the date is written out; outside :func:`dated` as it is."""
    now = _NOW.get()
    if now is None:
        return template

    def written(asked: re.Match[str]) -> str:
        text = now.strftime(asked[1] if asked[1] is not None else asked[2])
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return _ASKED.sub(written, template)
