"""Damaged and hostile files, made of whole ones by random changes.

`changed` is a pure function of the file and a seed, so that a failure can be had again from its seed.
"""

from __future__ import annotations

import random

PIECES = (
    *(bytes([mark]) for mark in b"\"',;\t\n\r\0{}[]:\\|"),
    *(b"\r\n", b"\\ud83d", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"0.0", b"-1", b"null", b"true", b'""', b"- "),
    *(b"9" * 30, b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"a" * 200_000, b"&a [*a]", b"!!python/object:os.system"),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"\xc3", b"\xe2\x80\xa8", b"sep=;\n", b"\x1b[2J", b"<b>"),
)
"""What readers trip over: quotes, separators, halves of characters, numbers out of range, deep nests, long cells."""


def changed(data: bytes, seed: int) -> bytes:
    """`data` after one to four random changes."""
    draw = random.Random(seed)
    for _ in range(draw.randint(1, 4)):
        place, end = sorted(draw.randint(0, len(data)) for _ in range(2))
        change = draw.randrange(7)
        if change == 0:
            data = data[:place]
        elif change == 1:
            data = data[:place] + data[min(end, place + 20) :]
        elif change == 2:
            data = data[:end] + data[place:end][:200] + data[end:]
        elif change == 3 and data:
            place = min(place, len(data) - 1)
            data = data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :]
        else:
            data = data[:place] + draw.choice(PIECES) + data[place + (change == 4) :]
    return data
