"""Everything that the public calls return shows itself: one line, a table in a notebook, a frame, a figure."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from mechanism_samples import SAMPLES

import leakmech
from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress, no_progress, rich_progress, shown_progress
from leakmech.mechanism.activations.arrays import Activations
from leakmech.mechanism.activations.store import ActivationCache
from leakmech.mechanism.attribution.scores import Attribution
from leakmech.mechanism.directions.direction import FittedDirections
from leakmech.mechanism.directions.quality import DirectionTable
from leakmech.models.load import LoadedModel, load_model
from leakmech.runs.result import Readable, Result
from leakmech.studies.annotation.importing import AnnotationResult
from leakmech.studies.benchmark.power import PowerResult
from leakmech.studies.diagnosis.result import Diagnosis
from leakmech.studies.emotion_circuits.comparison import StudyComparison
from leakmech.studies.lora.result import LoraResult
from leakmech.studies.persona_leakage.comparison import LeakageComparison
from leakmech.studies.sweep.result import SweepResult

RUNS = Path(__file__).parent / "fixtures" / "runs"
RESULTS = [
    leakmech.BenchResult, leakmech.Comparison, leakmech.EmotionCircuits, leakmech.Leaderboard,
    leakmech.MitigationComparison, leakmech.PersonaLeakage, leakmech.QuickResult, AnnotationResult, Diagnosis,
    LoraResult, SweepResult,
]  # fmt: skip
TABLES = [PowerResult, StudyComparison, LeakageComparison]
IN_MEMORY = [Attribution, FittedDirections]
OTHERS = [ActivationCache, Activations, DirectionTable, leakmech.Direction, LoadedModel, type(SAMPLES)]


def public_classes():
    return [getattr(leakmech, name) for name in leakmech.__all__ if inspect.isclass(getattr(leakmech, name))]


def test_every_public_result_is_in_the_lists_of_this_test():
    settings = {leakmech.Prompting, leakmech.Mitigation, leakmech.LoraTrainingConfig, leakmech.PromptSpans}
    values = {cls for cls in public_classes() if issubclass(cls, leakmech.Intervention)} | {leakmech.Probe}
    assert set(public_classes()) - settings - values <= {*RESULTS, *OTHERS}
    subclasses = {cls for cls in Readable.__subclasses__() if cls is not Result} | set(Result.__subclasses__())
    assert {cls for cls in subclasses if cls.__module__.startswith("leakmech.")} <= {*RESULTS, *TABLES}


@pytest.mark.parametrize("cls", RESULTS)
def test_results_have_all_ways_to_be_looked_at(cls):
    names = {"plot", "to_frame", "to_latex", "to_markdown", "_repr_html_", "tables", "headline"}
    assert {name for name in names if not callable(getattr(cls, name, None)) and name != "headline"} == set()
    if cls is not leakmech.QuickResult:  # has no run directory
        assert cls.report is not Result.report
        assert cls.to_frame is not Result.to_frame
        assert cls.__repr__ is Result.__repr__


@pytest.mark.parametrize("cls", [*TABLES, *IN_MEMORY, *OTHERS])
def test_what_is_no_run_has_a_line_and_a_table(cls):
    assert callable(cls._repr_html_)
    assert "__repr__" in vars(cls)
    assert cls in [LoadedModel, leakmech.Direction, ActivationCache, Activations] or callable(cls.to_frame)


def test_a_signature_has_no_array_in_it_and_interventions_are_one_short_line():
    steer = leakmech.Steer(torch.eye(64)[0], layers=[1], strength=0.5, stream_norm=2.0)
    probe = leakmech.Probe(vector=torch.eye(64)[0], layer=0, threshold=0.25)
    silenced = leakmech.AblateHeads([f"L{layer}H{head}" for layer in range(9) for head in range(9)], condition=probe)
    assert repr(probe) == "Probe(vector=<64>, layer=0, threshold=0.25)"
    assert repr(leakmech.AblateHeads(["L1H0"])) == "AblateHeads(components=(L1H0,))"
    for value in (steer, probe, silenced):
        assert "\n" not in repr(value)
        assert "tensor" not in repr(value)
        assert len(repr(value)) <= 160


# -- real values -----------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path, monkeypatch):
    shutil.copytree(RUNS, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def shows_itself(value, *parts):
    line, page = repr(value), value._repr_html_()
    assert "\n" not in line
    assert len(line) <= 300
    assert "<table>" in page
    for part in parts:
        assert part in line


@pytest.mark.filterwarnings("ignore::leakmech.core.errors.LeakmechWarning")
@pytest.mark.parametrize("name", ["bench", "score-run", "diagnose", "mitigate", "train", "annotation", "comparison"])
def test_results_of_old_runs_give_frames_tables_and_figures(runs, name):
    result = leakmech.load_result(runs / name)
    shows_itself(result, type(result).__name__)
    assert isinstance(result.to_frame(), pd.DataFrame)
    assert len(result.to_frame())
    assert result.to_markdown().strip()
    assert "\\toprule" in result.to_latex()
    for figure in result.figures():
        assert isinstance(result.plot(figure=figure, width=5), Figure)
    if not result.figures():
        with pytest.raises(UsageError, match="has no figure"):
            result.plot()
        return
    with pytest.raises(UsageError, match=r"has no figure 'no-such'; valid: |did you mean"):
        result.plot(figure="no-such")
    result.plot(runs / "drawn", title="")
    assert {file.suffix for file in runs.glob("drawn.*")} == {".png", ".pdf", ".csv"}


def test_a_frame_of_a_benchmark_has_a_row_a_condition_and_both_ends_of_intervals(runs):
    frame = leakmech.load_result(runs / "bench").to_frame().set_index("condition")
    assert list(frame.index) == ["overall", "positive", "negative", "neutral", "control"]
    summary = leakmech.load_result(runs / "bench").summary
    low, high = summary["overall"]["auc_el_ci"]
    assert frame.loc["overall", ["auc_el", "auc_el_low", "auc_el_high"]].tolist() == [
        summary["overall"]["auc_el"], low, high,
    ]  # fmt: skip


def test_values_in_memory_show_themselves(make_tiny, plain_tokenizer):
    model = load_model(make_tiny("llama-gqa"), tokenizer=plain_tokenizer)
    shows_itself(model, "LlamaForCausalLM")
    shows_itself(SAMPLES, f"{len(SAMPLES)} samples")
    assert list(SAMPLES.to_frame()["id"]) == [sample.id for sample in SAMPLES]
    assert "more" in leakmech.load_dataset("hexl")._repr_html_()
    cache = leakmech.cache_activations(model, SAMPLES, sites=["resid_post", "z"], positions=["last_prompt"])
    shows_itself(cache, "resid_post, z")
    shows_itself(cache["z"], "z: ", "1 positions")
    hexl = leakmech.load_dataset("hexl")
    found = leakmech.sentiment_directions(model, fit=hexl[:10], test=hexl[10:20], methods=["pca"], progress=False)
    shows_itself(found, "AUC")
    shows_itself(found.chosen, "Direction(read, resid_post of layer")
    assert isinstance(found.plot(width="column"), Figure)
    carried = leakmech.attribute(model, SAMPLES, target=found.chosen)
    shows_itself(carried, "attribution_patching")
    assert list(carried.to_frame().columns) == ["layer", "head", "name", "method", "target", "score", "rank"]
    assert carried.to_frame()["name"].iloc[0] in carried._repr_html_()
    assert isinstance(carried.plot(), Figure)
    shows_itself(leakmech.power(0.05, samples=60, generations=10), "effect of 0.05")


def test_texts_of_users_are_escaped():
    sample = leakmech.load_dataset("hexl")[0]
    told = type(SAMPLES)("<b>", (type(sample)("<i>", "Her <script>", "a.", "b.", "c."),))
    assert "<script>" not in told._repr_html_()
    assert "<b>" not in told._repr_html_()


# -- progress --------------------------------------------------------------------------------------------------------


class Shell:  # a fake of IPython's, as in a notebook
    kernel = object()


def test_progress_is_drawn_by_default_in_a_notebook_only(monkeypatch):
    def mine(label, *, total, done):
        raise AssertionError

    assert shown_progress(None) is no_progress
    assert (shown_progress(True), shown_progress(False), shown_progress(mine)) == (rich_progress, no_progress, mine)
    lines = []
    import sys
    from types import ModuleType

    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")  # fakes
    ipython.get_ipython = lambda: Shell()

    class Handle:
        def update(self, data, raw):
            lines.append(data["text/plain"])

    display.display = lambda data, raw, display_id: lines.append(data["text/plain"]) or Handle()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert shown_progress(False) is no_progress
    for given in (None, True):
        drawn: Progress = shown_progress(given)
        with drawn("generating", total=4, done=1) as advance:
            advance(1)
            advance(2)
        assert lines[0] == "generating: 1 of 4 (0 s)"
        assert lines[-1].startswith("generating: 4 of 4 (")
        lines.clear()
