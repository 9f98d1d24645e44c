"""How long a benchmark run will take, said before it starts."""

from __future__ import annotations

import leakmech
from leakmech.models.cost import Shape
from leakmech.studies.benchmark import cost

SETTINGS = {"limit": 3, "generations": 1, "decoding": {"max_new_tokens": 4}, "estimator": "vader", "noise_floor": False}


def test_a_run_of_more_than_a_minute_says_how_long_once_and_a_short_one_nothing(save_tiny, tmp_path, monkeypatch):
    folder, said = save_tiny("llama-gqa"), []
    leakmech.bench(folder, out=tmp_path / "short", interim=said.append, **SETTINGS)
    assert said == []
    monkeypatch.setattr(cost, "found_shape", lambda _: Shape(1e9, 16, 512, 50_000, 2048, 32))
    monkeypatch.setattr(cost, "machine_rate", lambda *_: 1e9)
    run = {"out": tmp_path / "long", "interim": said.append, **SETTINGS}
    leakmech.bench(folder, **run)
    leakmech.bench(folder, **run)
    # 12 prompts of 60 tokens and 12 answers of 4, of which a token counts three: 1,728 s for 864 tokens, and 30.1 s
    assert said == ["about 29 minutes here, within a factor of two or three"]
