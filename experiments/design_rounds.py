"""One design round of mitigations that are told nothing: what each removes and keeps by tilt, on development sets.

The completions are those of a run of ``leakmech bench hexl --tilt``, whose stems the matched set shares; nothing is
sampled here, so that a round costs minutes. R_tilt is the share of the tilt shift of HEXL that is gone, T_tilt the
share of that of matched affect that is left, both per token, over samples. ``--self-completions`` names a run on
``relevant-self``. With ``--random-draws`` random edits of the same size, strength and gate stand beside each.
``--adapters`` are measured in the same way, and need no diagnosis. Frozen sets are refused.

    leakmech bench --dataset hexl --tilt --prompt-form plain --out runs/tilt-hexl
    python experiments/design_rounds.py --diagnosis runs/diagnosis --completions runs/tilt-hexl \\
        --families heads-late late-heads-if-unrelated null-space --out runs/rounds
    python experiments/design_rounds.py --completions runs/tilt-hexl --adapters runs/lora
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from leakmech.core.progress import rich_progress
from leakmech.datasets.samples import FITTING_DATASETS, POLARITIES, PromptSet, load_dataset, load_pooled, refuse_frozen
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.interventions.base import Intervention
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel, load_adapter, load_model
from leakmech.prompts.render import Prompting, Renderer
from leakmech.reports.tables import Table
from leakmech.runs.directory import RunDirectory
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.tilt import FEWEST_DISTINCT, affective_tilt
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.benchmark.tilt_files import Completions, read_completions
from leakmech.studies.mitigation.catalogue import CAUGHT, NULL_SPACE_SHARES
from leakmech.studies.mitigation.families import chosen_families
from leakmech.studies.mitigation.parts import FittedParts, load_fitted
from leakmech.studies.mitigation.random_baselines import RANDOM

FAMILIES = ("heads-late", "late-heads-if-unrelated", "null-space")
"""What is tried of a diagnosis where nothing is named."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--diagnosis", help="what families are fitted from")
    parser.add_argument("--prompt-form", default="plain", choices=("plain", "prefill", "chat"), help="of the diagnosis")
    parser.add_argument("--completions", required=True, help="run of bench --tilt on hexl")
    parser.add_argument("--self-completions", help="run of bench --tilt on relevant-self")
    parser.add_argument("--families", nargs="+", help=f"of mitigations; default: {' '.join(FAMILIES)}")
    parser.add_argument("--adapters", nargs="+", default=[], help="folders of PEFT adapters")
    parser.add_argument("--strengths", type=float, nargs="+", help="only these of each family")
    parser.add_argument("--relevant-fit", nargs="+", default=["relevant-fit"], choices=FITTING_DATASETS)
    parser.add_argument("--limit", type=int, default=30, help="stems of each set, at even distances")
    parser.add_argument("--per-stem", type=int, default=8, help="completions of each stem")
    parser.add_argument("--random-draws", type=int, default=0, help="random edits beside each one, where there are any")
    parser.add_argument("--out", default="runs/rounds", help="folder for the interventions that are fitted")
    arguments = parser.parse_args()
    if not arguments.diagnosis and (arguments.families or not arguments.adapters):
        parser.error("name the --diagnosis that families are fitted from, or --adapters alone")
    families = arguments.families or FAMILIES
    loaded = load_model(arguments.model, dtype="float32")
    parts = _fitted(loaded, arguments) if arguments.diagnosis else None
    sets = {"hexl": arguments.completions, "relevant-matched": arguments.completions}
    sets |= {"relevant-self": arguments.self_completions} if arguments.self_completions else {}
    given = {name: read_completions(RunDirectory(Path(path))) for name, path in sets.items()}
    prompting = Prompting(form=arguments.prompt_form) if parts is None else Prompting.of(parts.config)
    renderer = Renderer(loaded.tokenizer, prompting)
    measure = partial(shifts, renderer=renderer, given=given, limit=arguments.limit, per_stem=arguments.per_stem)
    base = measure(ModelVariant(loaded))
    rows = []
    for folder in arguments.adapters:
        rows.append(_row(Path(folder).name, measure(ModelVariant(load_adapter(loaded, folder))), base))
        print(" ".join(rows[-1]), flush=True)
    if parts is not None:
        rows += _rows_of_families(parts, families, arguments, lambda edits: measure(_edited(loaded, edits)), base)
    title = "Share of the tilt shift that is gone on HEXL (R), and left on relevant sets (T)"
    print(Table(title, ("mitigation", "R_tilt", *(f"T_tilt {name}" for name in list(sets)[1:])), rows).to_markdown())
    print("shift of the base model: " + ", ".join(f"{name} {value:.4f}" for name, value in base.items()))
    if parts is not None:
        _say_what_was_fitted(parts, families)


def _fitted(loaded: LoadedModel, arguments: argparse.Namespace) -> FittedParts:
    return load_fitted(
        arguments.diagnosis,
        loaded,
        form=arguments.prompt_form,
        relevant=load_pooled(arguments.relevant_fit),
        progress=rich_progress,
    )


def _edited(loaded: LoadedModel, edits: Sequence[Intervention]) -> ModelVariant:
    return ModelVariant(loaded, partial(apply, loaded.model, edits))


def _rows_of_families(
    parts: FittedParts,
    families: Sequence[str],
    arguments: argparse.Namespace,
    measure: Callable[[Sequence[Intervention]], Mapping[str, float]],
    base: Mapping[str, float],
) -> list[list[str]]:
    """Each member of each family, and the random edits beside it."""
    rows, out = [], Path(arguments.out)
    for family in chosen_families(families):
        kept = tuple(s for s in family.strengths if arguments.strengths is None or s in arguments.strengths)
        for member in replace(family, strengths=kept).members(parts, out):
            rows.append(_row(member.name, measure(member.interventions), base))
            print(" ".join(rows[-1]), flush=True)
            for kind in (kind for kind in RANDOM if kind.follows == family.name):
                drawn = []
                for draw in kind.draws(parts, member, arguments.random_draws, out):
                    drawn.append(measure(draw.interventions))
                    print(" ".join(_row(draw.name, drawn[-1], base)), flush=True)
                rows += _bands(kind.row_name(member), drawn, base)
    return rows


def _say_what_was_fitted(parts: FittedParts, names: Sequence[str]) -> None:
    if any(family.told == "nothing" and "if-unrelated" in family.name for family in chosen_families(names)):
        gate = parts.relation_gate
        print("gate:", gate.to_dict())
        for caught in CAUGHT:
            kept = f"{gate.kept(caught):.2f} of relevant prompts, {gate.kept_controls(caught):.2f} of control prompts"
            print(f"gate that catches {caught:.0%}: leaves alone {kept}")
    if "null-space" in names:
        print("maps:", parts.unrelated_maps.to_dict(NULL_SPACE_SHARES))
    if "focus" in names:
        print("focus:", parts.focus.to_dict())
    if any(name.startswith("residual-direction") for name in names):
        print("residual directions:", parts.residual_directions.to_dict())


def _row(name: str, measured: Mapping[str, float], base: Mapping[str, float]) -> list[str]:
    """What is gone on the first set, and left on the others."""
    first, *others = (measured[name] / base[name] for name in base)
    return [name, f"{1 - first:.2f}", *(f"{share:.2f}" for share in others)]


def _bands(name: str, drawn: Sequence[Mapping[str, float]], base: Mapping[str, float]) -> list[list[str]]:
    """Rows of the least, the middle and the largest removal among random draws, with what is left there."""
    if not drawn:
        return []
    first = next(iter(base))
    ranked = sorted(drawn, key=lambda measured: measured[first], reverse=True)
    chosen = {"least": ranked[0], "median": ranked[len(ranked) // 2], "most": ranked[-1]}
    return [_row(f"{name}, {which} of {len(drawn)}", measured, base) for which, measured in chosen.items()]


def shifts(
    variant: ModelVariant, *, renderer: Renderer, given: Mapping[str, Completions], limit: int, per_stem: int
) -> dict[str, float]:
    """Mean tilt shift per token of each set."""
    found = {}
    for name, completions in given.items():
        samples = load_dataset(name)
        refuse_frozen(samples)
        found[name] = _shift(variant, renderer, samples.spread(limit), completions, per_stem)
    return found


def _shift(
    variant: ModelVariant, renderer: Renderer, samples: PromptSet, completions: Completions, per_stem: int
) -> float:
    by_stem = {line["stem"]: line["completions"] for line in completions.values()}
    values = []
    for sample in samples:
        texts = by_stem[sample.stem][:per_stem]
        if len({text["text"] for text in texts}) < FEWEST_DISTINCT:
            continue
        valence = torch.tensor([next(iter(text["valence"].values())) for text in texts], dtype=torch.float64)
        tokens = [plain_ids(variant.loaded.tokenizer, text["text"]) for text in texts]
        tilts = []
        for polarity in POLARITIES:
            prompt = tuple(renderer.token_ids(renderer.prompt(sample, polarity).rendered))
            items = [Continuation(f"{sample.id}#{n}", sample.id, prompt, tuple(own)) for n, own in enumerate(tokens)]
            log_p = log_likelihoods(variant, items, share_prompts=True).log_likelihood
            per_token = torch.from_numpy(log_p) / torch.tensor([len(own) for own in tokens])
            tilts.append(float(affective_tilt(per_token, valence)))
        values.append(tilts[0] - tilts[1])
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
