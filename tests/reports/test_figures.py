from __future__ import annotations

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.image import imread

from leakmech.core.errors import StorageError
from leakmech.reports.figures.canvas import new_figure, save_figure
from leakmech.studies.benchmark.comparison_report import draw_comparison


def _comparison(*, margin=0.05, second="base", low=-0.03):
    def row(run, baseline, difference, low, high, statistic="auc_el"):
        keys = ("run", "baseline", "difference", "low", "high", "statistic")
        return dict(zip(keys, (run, baseline, difference, low, high, statistic), strict=True))

    rows = [row("a", "base", -0.02, low, 0.01), row("b", second, 0.1, 0.02, 0.2), row("a", "base", 9, 8, 9, "mu_el")]
    return {"margin": margin, "differences": rows}


def drawn(comparison, **look):
    """The axes of the forest plot."""
    return draw_comparison(comparison, **look).axes[0]


def test_a_forest_plot_shows_each_difference_with_its_interval_and_the_line_of_none():
    axes = drawn(_comparison())
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]
    assert ([0, 0], [0, 1]) in lines
    assert ([-0.03, 0.01], [0, 0]) in lines
    assert ([-0.02], [0]) in lines
    assert ([0.02, 0.2], [1, 1]) in lines
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "difference in auc_el (run - base), 95 % interval"
    assert [text.get_text() for text in axes.texts] == ["−0.020 [−0.030, +0.010]", "+0.100 [+0.020, +0.200]"]


def test_the_margin_is_shaded_only_where_one_was_given():
    [shade] = drawn(_comparison()).patches
    assert (shade.get_x(), shade.get_width()) == pytest.approx((-0.05, 0.1))
    assert not drawn(_comparison(margin=None)).patches


def test_with_several_baselines_both_runs_are_named():
    axes = drawn(_comparison(second="a"))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a - base", "b - a"]
    assert "first - second" in axes.get_xlabel()


def test_a_difference_without_an_interval_is_a_point():
    axes = drawn(_comparison(low=None))
    assert axes.texts[0].get_text() == "−0.020"


def test_figures_are_saved_in_both_formats_the_same_each_time_and_leave_matplotlib_alone(tmp_path):
    settings, open_figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    for name in ("a", "b"):
        draw_comparison(_comparison(), tmp_path / name / "forest.png")
    first, again = ([tmp_path / name / f"forest.{end}" for end in ("png", "pdf", "csv")] for name in ("a", "b"))
    assert "0.1,0.02,0.2" in first[2].read_text()
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    assert imread(first[0]).std() > 0.05
    assert b"/FontFile2" in first[1].read_bytes()  # TrueType inside (Type 42)
    assert b"/Type3" not in first[1].read_bytes()
    assert dict(matplotlib.rcParams) == settings
    assert pyplot.get_fignums() == open_figures


def test_a_pdf_embeds_a_small_font_unless_a_letter_is_missing_in_it(tmp_path):
    embedded = {}
    for text in ("µ_EL − 0.5 →", "шум"):
        figure, axes = new_figure(3, 2)
        axes.set_xlabel(text)
        embedded[text] = save_figure(figure, tmp_path / "x")[1].read_bytes()
    assert b"DejaVuSansoffigures" in embedded["µ_EL − 0.5 →"]
    assert b"DejaVuSansoffigures" not in embedded["шум"]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    figure, _ = new_figure(2, 2)
    with pytest.raises(StorageError, match="cannot be written"):
        save_figure(figure, tmp_path / "file" / "x.png")
