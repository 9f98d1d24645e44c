"""The stage ``similarity``: who is like whom in the base model, by every recipe of :mod:`.similarity`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import ModelError
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.runs.run import Fragment
from leakmech.studies.persona_leakage.measuring import Subject
from leakmech.studies.persona_leakage.similarity import centred, cosines, js_similarity, shared_words
from leakmech.studies.persona_leakage.teaching import replies_of
from leakmech.studies.persona_leakage.workbench import Workbench, similarity_questions


def similarity(bench: Workbench) -> Fragment:
    """Similarity of everybody to every source, by each recipe, in ``tables/similarity.csv``."""
    questions = similarity_questions(bench.config)
    sources = [bench.cast.place(own.id) for own in bench.cast.sources]
    replies = replies_of(bench)
    if not any(replies):
        raise ModelError(
            f"{bench.loaded.name}: answers none of {len(questions)} neutral questions, so personas cannot "
            "be compared over replies"
        )
    prompts = [[bench.renderer.ids(question, own) for own in bench.cast.everybody] for question in questions]
    found: dict[str, np.ndarray] = {}
    for span, layer, centroids in _centroids(bench, prompts, replies):
        found[f"{span}_l{layer}"] = cosines(centred(centroids[None]), sources)
    found["js"] = js_similarity(Subject(bench.loaded).variant, prompts, replies, sources, progress=bench.progress)
    texts = [own.prompt for own in bench.cast.everybody]
    embedded = bench.encoder(texts)
    found["text"] = embedded[sources] @ embedded.T
    found["shared_words"] = shared_words(texts, sources)
    words = [len(text.split()) for text in texts]
    frame = pd.concat([
        pd.DataFrame({"source": source.id, "persona": bench.cast.everybody.ids, "words": words}
                     | {name: values[place] for name, values in found.items()})
        for place, source in enumerate(bench.cast.sources)
    ], ignore_index=True)  # fmt: skip
    bench.run.save_table("similarity", frame)
    return {"recipes": list(found), "headline": f"last_l{bench.headline_layer}", "n_questions": len(questions)}


def _centroids(
    bench: Workbench, prompts: Sequence[Sequence[tuple[int, ...]]], replies: Sequence[tuple[int, ...]]
) -> Iterator[tuple[str, int, Float[np.ndarray, "persona d"]]]:
    """Means over questions at the last prompt token and over reply tokens; one question is in memory at a time."""
    total, n = 0.0, 0
    with bench.progress("centroids", total=len(replies), done=0) as advance:
        for own, reply in zip(prompts, replies, strict=True):
            if reply:
                texts = [
                    LabelledText(
                        str(place), (*ids, *reply), ((len(ids) - 1, len(ids)), (len(ids), len(ids) + len(reply)))
                    )
                    for place, ids in enumerate(own)
                ]
                read = read_labelled(bench.loaded, texts, layers=bench.layers, batch_size=bench.config.batch_size)
                total, n = total + read["resid_post"].astype(np.float64), n + 1
            advance(1)
    means = np.asarray(total) / n
    for span, name in enumerate(("last", "reply")):
        for place, layer in enumerate(bench.layers):
            yield name, layer, means[:, span, place]
