"""Figures of a diagnosis: what they draw, what they say, what they write and what they refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from PIL import Image

from leakmech.core.errors import FigureError, UsageError
from leakmech.reports.figures import canvas as figures
from leakmech.reports.figures.canvas import text_width, wrapped
from leakmech.reports.figures.components import method_agreement, neuron_ranking, transport_scatter
from leakmech.reports.figures.directions import cosine_heat_map, layer_curves
from leakmech.reports.figures.heads import attention_map, head_heat_map
from leakmech.reports.figures.patching import faithfulness_curves, patching_map
from leakmech.reports.figures.tokens import token_projection, visible_token

DRAW = {
    function.__name__: function
    for function in (
        attention_map, cosine_heat_map, faithfulness_curves, head_heat_map, layer_curves, method_agreement,
        neuron_ranking, patching_map, token_projection, transport_scatter,
    )
}  # fmt: skip

SUBTITLE = "a $model$ on a_data set"


def heads(n_layers=3, n_heads=4, column="score"):
    rows = [(layer, head, (-1) ** head * (layer + head / 10)) for layer in range(n_layers) for head in range(n_heads)]
    return pd.DataFrame(rows, columns=["layer", "head", column])


def neurons(count=40, **more):
    score = np.array([(-1) ** index / (index + 1) for index in range(count)])
    return pd.DataFrame({"layer": 1, "neuron": np.arange(count), "score": score, **more})


def tokens():
    shared = [("<s>", "prefix"), ("\n", "prefix"), ("Say", "instruction"), (":", "instruction")]
    injections = {
        "control": [],
        "positive": [" I", " won", " $5", " $6", "."],
        "neutral": [" It", " rains", "."],
        "negative": [" I", " lost", "."],
    }
    rows = []
    for index, (condition, injection) in enumerate(injections.items()):
        parts = [
            *shared,
            *((token, "injection") for token in injection),
            (" She", "stem"),
            (" is", "stem"),
            ("</s>", "tail"),
        ]
        rows += [(condition, i, token, float(i - 2 * index), part) for i, (token, part) in enumerate(parts)]
    return pd.DataFrame(rows, columns=["condition", "position", "token", "projection", "part"])


def layers(**more):
    rows = [
        ("resid_post", "last_prompt", "read", method, layer, 0.5 + 0.1 * layer + 0.05 * index, layer - 0.5 * index)
        for index, method in enumerate(("difference_of_means", "pca"))
        for layer in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["site", "position", "kind", "method", "layer", "test_auc", "test_d_z"])
    return frame.assign(**more)


def patching():
    rows = [
        (layer, name, layer * 0.1 - at * 0.2)
        for layer in range(4)
        for at, name in enumerate(("last", "stem", "injection"))
    ]
    return pd.DataFrame(rows, columns=["layer", "position", "effect"])


def faithfulness(rankings=("attribution", "random")):
    rows = [
        (mode, name, fraction, fraction ** (0.1 + at), fraction ** (0.1 + at) - 0.1, fraction ** (0.1 + at) + 0.1)
        for mode in ("keep", "remove")
        for at, name in enumerate(rankings)
        for fraction in (0.001, 0.01, 0.1, 1.0)
    ]
    return pd.DataFrame(rows, columns=["mode", "ranking", "fraction", "faithfulness", "low", "high"])


def cosines(labels=("read", "expressed $x$", "a")):
    values = np.full((len(labels), len(labels)), -0.25) + 1.25 * np.eye(len(labels))
    return pd.DataFrame(values, index=labels, columns=labels)


def agreement():
    return heads(column="exact").assign(fast=lambda frame: frame["exact"] ** 3)


def transport():
    frame = heads(column="transport").assign(expression=lambda rows: -rows["transport"])
    frame["component"] = [f"H{head}" for head in frame.pop("head")]
    sublayers = pd.DataFrame({"layer": [0, 1], "component": "mlp", "transport": 0.1, "expression": [5.0, 0.2]})
    return pd.concat([frame, sublayers])


FIGURES = {
    "head_heat_map": heads,
    "attention_map": lambda: heads(column="attention").assign(attention=lambda frame: frame["attention"].abs() / 3),
    "neuron_ranking": neurons,
    "token_projection": tokens,
    "layer_curves": layers,
    "patching_map": patching,
    "faithfulness_curves": faithfulness,
    "method_agreement": agreement,
    "cosine_heat_map": cosines,
    "transport_scatter": transport,
}


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """Fewer pixels, which is most of the time that a figure takes."""
    monkeypatch.setitem(figures._FORMATS, ".png", figures._FORMATS[".png"] | {"dpi": 40})


@pytest.fixture
def drawn():
    """``drawn(name, frame)``: the figure, with warnings as errors."""

    def draw(name, frame, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return DRAW[name](frame, **options)

    return draw


def texts_of(figure):
    """Every text of a figure, those of its legends, axes and header included."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def data_of(path, name, frame, **options):
    DRAW[name](frame, path / name, **options)
    return pd.read_csv(path / f"{name}.csv", keep_default_na=False)


# -- every figure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_png_pdf_and_data_are_written_beside_each_other_and_the_title_is_in_the_files(name, tmp_path):
    DRAW[name](FIGURES[name](), tmp_path / "a" / f"{name}.png", title="What is seen", subtitle="M")
    files = [tmp_path / "a" / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")]
    assert sorted(files) == sorted((tmp_path / "a").iterdir())
    assert imread(files[0]).std() > 0.03
    with Image.open(files[0]) as image:
        assert image.text["Title"] == "What is seen"


def test_the_same_frame_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        head_heat_map(heads(), tmp_path / name / "x")
    first, again = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("width", "inches"), [("column", 3.25), ("page", 6.75), (5.5, 5.5)])
def test_figures_are_as_wide_as_a_column_or_a_page_of_a_paper_and_nothing_is_cut_off(name, width, inches, drawn):
    figure = drawn(name, FIGURES[name](), width=width, subtitle=SUBTITLE)
    figure.draw_without_rendering()
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert size[0] == inches
    assert (box.x0 >= -0.03, box.x1 <= inches + 0.03, box.y1 <= size[1] + 0.03) == (True, True, True)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_a_title_has_neither_title_nor_subtitle(name, drawn):
    figure, whole = (drawn(name, FIGURES[name](), title=title, subtitle=SUBTITLE) for title in ("", "What is seen"))
    assert SUBTITLE not in texts_of(figure)
    assert figure.get_size_inches()[1] < whole.get_size_inches()[1]


@pytest.mark.parametrize("name", FIGURES)
def test_every_entry_of_a_legend_is_there_once(name, drawn):
    figure = drawn(name, FIGURES[name]())
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        entries = [text.get_text() for text in legend.get_texts()]
        assert len(entries) == len(set(entries))


def test_a_notebook_shows_a_figure_without_pyplot(drawn):
    assert drawn("head_heat_map", heads())._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("width", "message"),
    [("colum", "width 'colum'; did you mean 'column'"), (0.5, "must be 'column', 'page' or inches from 2 to 30"),
     (True, "width True must be")],
)  # fmt: skip
def test_other_widths_are_refused(width, message, tmp_path):
    with pytest.raises(FigureError, match=message):
        neuron_ranking(neurons(), tmp_path / "x", width=width)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FIGURES)
def test_title_subtitle_and_axes_are_labelled_and_nothing_leaves_the_figure(name, drawn):
    figure = drawn(name, FIGURES[name](), subtitle=SUBTITLE)
    figure.draw_without_rendering()
    assert figure.get_label()
    assert SUBTITLE in texts_of(figure)
    titles = " ".join(text.get_text() for text in figure.texts)
    assert figure.get_label() in titles
    if name != "cosine_heat_map":
        assert figure.axes[0].get_xlabel()
        assert figure.axes[0].get_ylabel()
    box, size = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= -0.03
    assert box.y0 >= -0.03
    assert box.x1 <= size[0] + 0.03
    assert box.y1 <= size[1] + 0.03


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "cosine_heat_map"])
def test_a_table_without_rows_or_without_a_column_is_refused_by_name(name, tmp_path):
    frame = FIGURES[name]()
    draw = DRAW[name]
    with pytest.raises(FigureError, match=f"{name}: the table has no rows"):
        draw(frame.iloc[:0], tmp_path / "x")
    with pytest.raises(FigureError, match=f"{name}: column '{frame.columns[0]}' is missing"):
        draw(frame.drop(columns=frame.columns[0]), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("head_heat_map", "score"),
        ("attention_map", "attention"),
        ("neuron_ranking", "score"),
        ("token_projection", "projection"),
        ("layer_curves", "test_auc"),
        ("patching_map", "effect"),
        ("faithfulness_curves", "faithfulness"),
        ("method_agreement", "fast"),
        ("transport_scatter", "expression"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused_with_its_place(name, column, value, tmp_path):
    frame = FIGURES[name]().reset_index(drop=True)
    frame.loc[2, column] = value
    with pytest.raises(FigureError, match=rf"{name}: column '{column}' is {value:g} in row 2 \(.*\); leave it out"):
        DRAW[name](frame, tmp_path / "x")
    frame[column] = "much"
    with pytest.raises(FigureError, match="must hold numbers, found for example 'much'"):
        DRAW[name](frame, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_two_rows_for_one_head_and_layers_that_are_no_index_are_refused(tmp_path):
    with pytest.raises(FigureError, match="several rows for layer 0, head 0; keep one of them"):
        head_heat_map(pd.concat([heads(), heads()]), tmp_path / "x")
    with pytest.raises(FigureError, match="column 'layer' must hold whole numbers from 0, found -1"):
        head_heat_map(heads().assign(layer=lambda frame: frame["layer"] - 1), tmp_path / "x")
    assert issubclass(FigureError, UsageError)


def test_half_an_interval_is_refused(tmp_path):
    with pytest.raises(FigureError, match="an interval needs both columns 'low' and 'high'; found 'low' alone"):
        neuron_ranking(neurons(low=0.0), tmp_path / "x")


# -- heads and neurons -----------------------------------------------------------------------------------------------


def test_the_largest_heads_are_numbered_in_the_map_and_named_beside_it(drawn, tmp_path):
    figure = drawn("head_heat_map", heads(), top=2, quantity="nats")
    axes, key, bar = figure.axes
    assert [(text.get_text(), text.get_position()) for text in axes.texts] == [("1", (3.5, 2.48)), ("2", (2.5, 2.48))]
    assert [text.get_text() for text in key.texts] == ["largest 2", "1", "L2H3", "−2.3", "2", "L2H2", "+2.2"]
    assert bar.get_ylabel() == "nats"
    size = heads()["score"].abs()
    assert figure.get_label() == f"2 of 12 heads hold {100 * 4.5 / size.sum():.0f} % of the total |score|"
    [mesh] = axes.collections
    assert mesh.get_clim() == (-2.3, 2.3)
    assert np.array_equal(np.asarray(mesh.get_array())[2], [2.0, -2.1, 2.2, -2.3])
    pd.testing.assert_frame_equal(data_of(tmp_path, "head_heat_map", heads().sample(frac=1, random_state=0)), heads())


@pytest.mark.parametrize(("n_layers", "n_heads"), [(32, 32), (30, 9), (1, 1), (80, 64)])
def test_a_map_of_any_model_has_readable_ticks_and_cells(drawn, n_layers, n_heads):
    figure = drawn("head_heat_map", heads(n_layers, n_heads))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    box = axes.get_window_extent()
    inches = box.width / figure.dpi / n_heads, box.height / figure.dpi / n_layers
    assert min(inches) > 0.12  # a rank of two digits at 6.5 points
    assert 1 <= len(axes.get_yticks()) <= 17
    names = [text for text in texts_of(figure) if text.startswith("L") and "H" in text]
    assert len(names) == min(10, n_layers * n_heads)


def test_a_map_of_zeros_and_a_map_with_holes_are_drawn(drawn):
    drawn("head_heat_map", heads().assign(score=0.0))
    [mesh] = drawn("head_heat_map", heads().iloc[1:]).axes[0].collections
    assert np.isnan(np.asarray(mesh.get_array(), dtype=float)[0, 0]) or np.ma.getmaskarray(mesh.get_array())[0, 0]


def test_attention_is_drawn_in_percent_and_written_as_given(drawn, tmp_path):
    frame = FIGURES["attention_map"]()
    figure = drawn("attention_map", frame)
    assert "77 %" in texts_of(figure)  # 2.3 / 3
    assert figure.get_label().startswith("L2H3 looks most at the injection: 77 % of its attention (median of all heads")
    assert data_of(tmp_path, "attention_map", frame)["attention"].max() == pytest.approx(2.3 / 3)


def test_neurons_are_ranked_by_size_and_their_share_is_of_all_of_them(drawn, tmp_path):
    frame = neurons()
    figure = drawn("neuron_ranking", frame.sample(frac=1, random_state=1), top=3)
    scores, curve = figure.axes
    assert [label.get_text() for label in scores.get_yticklabels()] == ["L1N0", "L1N1", "L1N2"]
    points = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in scores.get_lines()}
    assert points["carries the shift"] == (pytest.approx([1, 1 / 3]), [0, 2])
    assert points["works against it"] == ([-1 / 2], [1])
    share = 100 * (1 + 1 / 2 + 1 / 3) / frame["score"].abs().sum()
    assert figure.get_label() == f"3 of 40 neurons hold {share:.1f} % of the total |score|"
    assert curve.get_lines()[0].get_ydata()[2] == pytest.approx(share)
    written = data_of(tmp_path, "neuron_ranking", frame, top=3)
    assert list(written.columns) == ["rank", "layer", "neuron", "score", "share"]
    assert written["share"].iloc[-1] == pytest.approx(1)


def test_intervals_of_neurons_are_drawn_where_they_are_known(drawn):
    high = np.where(np.arange(40) == 0, np.nan, 2.0)
    scores = drawn("neuron_ranking", neurons(low=-1.0, high=high), top=3).axes[0]
    assert scores.get_xlabel() == "score (line: 95 % interval)"
    ends = [segment[:, 0].tolist() for lines in scores.collections for segment in lines.get_segments() if len(segment)]
    assert [-1.0, 2.0] in ends
    assert "interval" not in drawn("neuron_ranking", neurons(), top=3).axes[0].get_xlabel()


def test_the_curve_of_many_neurons_is_thinned_and_keeps_first_and_last(drawn, tmp_path):
    written = data_of(tmp_path, "neuron_ranking", neurons(20_000), top=25)
    assert len(written) < 350
    assert written["rank"].tolist()[:25] == list(range(1, 26))
    assert written["rank"].iloc[-1] == 20_000


def test_agreement_says_the_rank_correlation_of_the_points_or_the_one_given(drawn):
    assert drawn("method_agreement", agreement()).get_label().endswith("over 12 heads: Spearman 1.00")
    figure = drawn("method_agreement", agreement(), spearman=-0.5, top=2)
    assert figure.get_label().endswith("Spearman −0.50")
    assert [text.get_text() for text in figure.axes[0].texts] == ["L2H3", "L2H2"]
    assert drawn("method_agreement", agreement().assign(fast=1.0)).get_label().endswith("Spearman not defined")


def test_components_are_named_by_kind_and_the_strongest_of_both_axes_are_said(drawn):
    figure = drawn("transport_scatter", transport(), top=1)
    assert figure.get_label() == "Strongest in transport: L2H3; strongest in expression: L0.mlp"
    assert {text.get_text() for text in figure.axes[0].texts} == {"L2H3", "L0.mlp"}
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["attention head (12)", "MLP (2)"]


def test_heads_of_the_table_of_a_diagnosis_are_numbers_and_are_named_as_heads(drawn):
    frame = transport().assign(component=lambda rows: rows["component"].str.removeprefix("H"))
    figure = drawn("transport_scatter", frame, top=1)
    assert figure.get_label() == "Strongest in transport: L2H3; strongest in expression: L0.mlp"
    assert "attention head (12)" in texts_of(figure)


def test_an_axis_on_which_one_component_is_far_from_the_rest_is_logarithmic_beyond_them_and_says_so(drawn):
    axes = drawn("transport_scatter", transport().assign(expression=lambda rows: rows["expression"] / 10)).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    far = transport().assign(expression=lambda rows: np.where(rows["component"] == "mlp", 90.0, rows["expression"]))
    axes = drawn("transport_scatter", far.iloc[:13]).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "symlog")
    assert "log beyond ±2" in " ".join(axes.get_ylabel().split())


def test_names_of_neighbouring_points_do_not_overlap(drawn):
    frame = heads(3, 4, "exact").assign(fast=lambda rows: rows["exact"])
    frame["exact"] = frame["fast"] = np.linspace(1, 1.02, 12)
    frame.loc[0, ["exact", "fast"]] = 0.0
    figure = drawn("method_agreement", frame, top=4)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_shared_tokens_of_all_conditions_lie_in_the_same_columns(drawn, tmp_path):
    written = data_of(tmp_path, "token_projection", tokens(), leading=3)
    for part, token, column in (("instruction", ":", 2), ("stem", " She", 8), ("tail", "</s>", 10)):
        assert set(written[(written["part"] == part) & (written["token"] == token)]["column"]) == {column}
    stops = written[(written["part"] == "injection") & (written["token"] == ".")]
    assert set(stops["column"]) == {7}
    assert len(written) == len(tokens()) - 4  # one token before the last three, in each of four prompts
    assert "; 1 token before these is left out" in drawn("token_projection", tokens(), leading=3).axes[0].get_xlabel()


def test_a_first_token_on_which_attention_rests_is_left_out_and_nothing_else_is(drawn, tmp_path):
    for projection, first in ((-44.0, "<s>"), (-46.0, "\n")):  # the largest of the others is 9
        frame = tokens().assign(projection=lambda rows, p=projection: rows["projection"].where(rows["position"] > 0, p))
        written = data_of(tmp_path, "token_projection", frame)
        assert set(written.loc[written["column"] == 0, "token"]) == {first}
    assert "; 1 token before these is left out" in drawn("token_projection", frame).axes[0].get_xlabel()


def test_a_line_is_interrupted_where_a_prompt_has_no_token(drawn):
    lines = drawn("token_projection", tokens()).axes[0].get_lines()
    black = [list(line.get_xdata()) for line in lines if line.get_color() == figures.CONDITION_COLORS["control"]]
    assert black[:2] == [[0, 1, 2, 3], [9, 10, 11]]
    blue = [list(line.get_xdata()) for line in lines if line.get_color() == figures.CONDITION_COLORS["positive"]]
    assert blue == [list(range(12))]


def test_injections_stand_in_rows_of_their_own_colour_and_shared_tokens_once(drawn):
    axes = drawn("token_projection", tokens()).axes[0]
    labels = [(text.get_text(), text.get_color()) for text in axes.texts]
    assert labels.count(("␣She", figures.INK)) == 1
    assert ("↵", figures.INK) in labels
    assert ("␣won", figures.CONDITION_COLORS["positive"]) in labels
    assert ("␣$5", figures.CONDITION_COLORS["positive"]) in labels
    assert len([1 for text, _ in labels if text == "."]) == 3
    assert all(not text.get_parse_math() for text in axes.texts if "$" in text.get_text())


def test_the_title_says_how_far_positive_and_negative_lie_apart(drawn):
    # Same positions: 2 * 2 apart by condition; the injection of positive is two tokens longer.
    figure = drawn("token_projection", tokens())
    assert (
        figure.get_label() == "Positive minus negative: +5 over the injection, +6 over the stem, +6 at the last token"
    )
    only = tokens().query("condition == 'control'")
    assert drawn("token_projection", only).get_label() == "Projection along the tokens of a prompt"


def test_intervals_along_the_tokens_are_drawn(drawn):
    frame = tokens().assign(low=lambda rows: rows["projection"] - 1, high=lambda rows: rows["projection"] + 1)
    assert len(drawn("token_projection", frame).axes[0].collections) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"condition": lambda rows: rows["condition"].replace("positive", "postive")},
            "condition 'postive'; did you mean 'positive'",
        ),
        ({"part": "instructions"}, "part 'instructions'; did you mean 'instruction'"),
        ({"position": 0}, "several rows for condition control, position 0"),
    ],
)
def test_unknown_conditions_parts_and_doubled_tokens_are_refused(change, message, tmp_path):
    with pytest.raises(FigureError, match=message):
        token_projection(tokens().assign(**change), tmp_path / "x")


def test_parts_out_of_order_are_refused(tmp_path):
    frame = tokens()
    frame.loc[0, "part"] = "tail"
    with pytest.raises(FigureError, match="parts of condition 'control' are not in the order"):
        token_projection(frame, tmp_path / "x")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (" a", "␣a"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("\u00a0", "⍽"),
        ("中", "▯"),
        ("$x$", "$x$"),
        ("a" * 30, "a" * 15 + "…"),
    ],
)
def test_tokens_can_be_read(token, text):
    assert visible_token(token) == text


# -- layers, directions, effects -------------------------------------------------------------------------------------


def test_layer_curves_show_every_method_the_random_band_and_the_chosen_direction(drawn, tmp_path):
    frame = layers(
        chosen=lambda rows: (rows["method"] == "pca") & (rows["layer"] == 2),
        random_auc_p95=0.6,
        random_d_z_p95=0.4,
        tune_auc=0.9,
        shuffled_auc_p95=lambda rows: np.where(rows["method"] == "pca", np.nan, 0.65),
        test_auc_low=lambda rows: np.where(rows["layer"] == 2, 0.4, np.nan),
        test_auc_high=lambda rows: np.where(rows["layer"] == 2, 0.9, np.nan),
    )
    figure = drawn("layer_curves", frame)
    auc, d_z = figure.axes
    assert (auc.get_ylabel(), d_z.get_ylabel()) == ("AUC on test", "d_z on test")
    lines = {line.get_label(): line for line in auc.get_lines()}
    assert list(lines["pca"].get_ydata()) == pytest.approx([0.55, 0.65, 0.75, 0.85])
    assert list(lines["chosen on tune"].get_xdata()) == [2]
    band = auc.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.5, 0.6))
    assert figure.get_label() == "Chosen on tune: layer 2, pca; on test AUC 0.75, d_z 1.5"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "random directions, to 95th percentile" in legend
    assert "fitted with shuffled labels, 95th percentile" in legend
    written = data_of(tmp_path, "layer_curves", frame)
    assert written["chosen"].tolist().count(True) == 1
    assert {"random_auc_p95", "shuffled_auc_p95", "tune_auc"} <= set(written.columns)


def test_places_get_rows_of_their_own_and_too_many_are_refused(drawn, tmp_path):
    two = pd.concat([layers(), layers(kind="expressed")])
    assert len(drawn("layer_curves", two).axes) == 4
    five = pd.concat([layers(kind=f"k{index}") for index in range(5)])
    with pytest.raises(FigureError, match=r"5 places .* are more than one figure shows"):
        layer_curves(five, tmp_path / "x")


def test_without_a_chosen_direction_the_best_on_test_is_said(drawn):
    assert drawn("layer_curves", layers()).get_label() == (
        "Separation is best at layer 3 (pca): AUC 0.85, d_z 2.5 on test"
    )


def test_patching_is_in_percent_with_the_regions_in_the_order_of_the_prompt(drawn, tmp_path):
    figure = drawn("patching_map", patching())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["injection", "stem", "last"]
    assert [text.get_text() for text in axes.texts][:3] == ["−40", "−20", "0"]
    assert "last 30 % (layer 3)" in figure.get_label()
    pd.testing.assert_frame_equal(data_of(tmp_path, "patching_map", patching()), patching())


def test_faithfulness_has_a_panel_a_mode_areas_in_the_legend_and_bands(drawn):
    figure = drawn("faithfulness_curves", faithfulness(), areas={"attribution": {"CPR": 0.9, "CMD": 0.125}})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["only the first k kept", "the first k removed"]
    assert all(axes.get_xscale() == "log" for axes in figure.axes)
    assert all(len(axes.collections) == 2 for axes in figure.axes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["attribution (CPR 0.90, CMD 0.12)", "random components"]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == pytest.approx([0.1, 1, 10, 100])
    reached = "The first 100 % of the components (attribution) reach faithfulness 0.8; random ones need 100 %"
    assert figure.get_label() == reached  # 0.1 ** 0.1 is 0.794


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mode": "both"}, "mode 'both'; valid: keep, remove"), ({"fraction": 0.0}, "several rows|not in \\(0, 1\\]")],
)
def test_other_modes_and_fractions_are_refused(change, message, tmp_path):
    frame = faithfulness().iloc[:1].assign(**change)
    with pytest.raises(FigureError, match=message):
        faithfulness_curves(frame, tmp_path / "x")


def test_areas_without_a_curve_are_refused(tmp_path):
    with pytest.raises(
        FigureError, match="areas of ranking 'atribution', which has no curve; did you mean 'attribution'"
    ):
        faithfulness_curves(faithfulness(), tmp_path / "x", areas={"atribution": {"CPR": 1.0}})


def test_cosines_are_written_in_the_cells_when_they_fit(drawn, tmp_path):
    figure = drawn("cosine_heat_map", cosines())
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["1.00", "−0.25", "−0.25"]
    assert figure.get_label() == "3 directions: median |cosine| of two 0.25, largest 0.25"
    assert not drawn("cosine_heat_map", cosines([str(index) for index in range(30)])).axes[0].texts
    written = data_of(tmp_path, "cosine_heat_map", cosines())
    assert list(written.columns) == ["direction", "read", "expressed $x$", "a"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame(), "needs a square table"),
        (cosines().iloc[:2], "found 2 rows and 3 columns"),
        (cosines(["a", "a"]), "two directions have the same label"),
        (cosines() * 2, "cosine of 'read' and 'read' is 2, not in"),
        (cosines() * np.nan, "is nan, not in"),
    ],
)
def test_a_matrix_that_is_none_of_cosines_is_refused(frame, message, tmp_path):
    with pytest.raises(FigureError, match=message):
        cosine_heat_map(frame, tmp_path / "x")


# -- text ------------------------------------------------------------------------------------------------------------


def test_long_titles_are_broken_to_the_width_of_the_figure():
    lines = wrapped("one two three " * 20, 4.0, size=10)
    assert len(lines) > 3
    assert max(text_width(line, size=10) for line in lines) <= 4.0
    assert " ".join(lines).split() == ("one two three " * 20).split()
