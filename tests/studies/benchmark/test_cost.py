"""How long a benchmark run will take, said before it starts."""

from __future__ import annotations

import leakmech
from leakmech.studies.benchmark import cost

SETTINGS = {"limit": 3, "generations": 1, "decoding": {"max_new_tokens": 4}, "estimator": "vader", "noise_floor": False}


def test_a_run_of_more_than_a_minute_says_how_long_once_and_a_short_one_nothing(save_tiny, tmp_path, monkeypatch):
    folder, said = save_tiny("llama-gqa"), []
    leakmech.bench(folder, out=tmp_path / "short", interim=said.append, **SETTINGS)
    assert said == []
    monkeypatch.setattr(cost, "_WORTH_TIMING", 800)
    monkeypatch.setattr(cost, "seconds_per_token", lambda _: 2.0)
    run = {"out": tmp_path / "long", "interim": said.append, **SETTINGS}
    leakmech.bench(folder, **run)
    leakmech.bench(folder, **run)
    # 12 prompts of 60 tokens, and 12 answers of 4, of which a token counts three
    assert said == ["about 29 minutes here, by the time of one pass"]
