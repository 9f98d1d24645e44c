"""The stage ``bridge``: does a persona that was taught gloom leak more *irrelevant* affect?

Tilt, and topic-free leakage, of the source, of the bystander that is most like it and of the one that is least, under
the base model, the adapter that taught the first source affective tone, and the control adapter. Prompts are in form
``prefill``, with the persona in the system role. Tilt is judged on one set of completions a persona, the base model's.
The valence of control answers stands beside it: where all answers are gloomy already, less leakage can be a floor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from leakmech.datasets.personas import Persona
from leakmech.runs.directory import SCRIPT
from leakmech.runs.run import Fragment
from leakmech.studies.benchmark.run import bench as measure
from leakmech.studies.persona_leakage.teaching import Adapter, Teaching
from leakmech.studies.persona_leakage.workbench import Workbench

TONE = "affective-tone"


def bridge(bench: Workbench) -> Fragment:
    """Rows of the table: persona by model."""
    c = bench.config
    if not c.bridge:
        return {"skipped": "it was not asked for" + (" (quick)" if c.quick else "")}
    if TONE not in bench.behaviours:
        return {"skipped": f"{TONE} is not among the behaviours"}
    if bench.renderer.place != "system":
        return {"skipped": "the chat template has no system role"}
    source, seed = bench.cast.sources[0].id, bench.seeds[0]
    row = next(r for r in bench.earlier("analysis")["cells"] if (r["behaviour"], r["source"]) == (TONE, source))
    if not row["taken_on"]:
        return {"skipped": f"{source} did not take {TONE} on"}
    models: dict[str, Path | None] = {
        "base": None,
        "taught gloom": Teaching(bench, Adapter(TONE, source, seed)).trained(),
        "control": Teaching(bench, Adapter(TONE, source, seed, "control")).trained(),
    }
    rows = []
    for role, persona in _personas(bench).items():
        for name, adapter in models.items():
            rows.append(
                {"persona": persona.id, "role": role, "model": name, **_measured(bench, persona, name, adapter)}
            )
    return {"source": source, "dataset": c.leakage, "n_samples": c.leakage_samples, "rows": rows}


def _personas(bench: Workbench) -> dict[str, Persona]:
    """The first source, and the bystanders that are most and least like it by the headline's recipe."""
    source = bench.cast.sources[0]
    table: Any = bench.run.table("similarity")
    alike = table[table["source"] == source.id][bench.earlier("similarity")["headline"]].to_numpy()
    kept = np.flatnonzero(bench.cast.kept(source.id))
    ordered = kept[np.argsort(alike[kept], kind="stable")]
    everybody = bench.cast.everybody.personas
    return {"source": source, "nearest": everybody[int(ordered[-1])], "farthest": everybody[int(ordered[0])]}


def _measured(bench: Workbench, persona: Persona, name: str, adapter: Path | None) -> dict[str, Any]:
    """One benchmark run."""
    c = bench.config
    home = bench.run.path.resolve() / "leakage"
    by_name = not bench.run.record.fact(SCRIPT)
    base_run = home / f"{persona.id}-base"
    settings: dict[str, Any] = {"adapter": str(adapter.resolve())} if adapter is not None else {}
    if adapter is not None:
        settings["tilt_from"] = str(base_run)
    found = measure(
        c.model if by_name else bench.loaded.model,
        tokenizer=None if by_name else bench.loaded.tokenizer,
        dataset=c.leakage, limit=c.leakage_samples, generations=c.leakage_generations, seed=c.seed,
        prompt_form="prefill", system=persona.prompt, tilt=True, tilt_completions=c.leakage_completions, on_task=True,
        noise_floor=False, revision=c.revision, trust_remote_code=c.trust_remote_code, batch_size=c.batch_size,
        encoder=c.encoder, dtype=c.dtype, device=c.device, bootstrap_draws=c.bootstrap_draws, progress=bench.progress,
        out=base_run if adapter is None else home / f"{persona.id}-{name.replace(' ', '-')}", **settings,
    ).summary  # fmt: skip
    overall, tilt = found["overall"], found["tilt"].get("per_token", {})
    free, control = overall.get("topic_free") or {}, found["conditions"].get("control", {})
    return {
        "tilt": tilt.get("shift"), "tilt_ci": tilt.get("shift_ci", [None, None]),
        "topic_free": free.get("auc_el"), "topic_free_ci": free.get("auc_el_ci", [None, None]),
        "auc_el": overall["auc_el"], "auc_el_ci": overall["auc_el_ci"],
        "control_valence": control.get("valence"), "control_valence_ci": control.get("valence_ci", [None, None]),
        "topic_rate": overall.get("topic_rate"), "on_task_rate": overall.get("on_task_rate"),
    }  # fmt: skip
