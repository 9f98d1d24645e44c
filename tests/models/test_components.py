"""Labels of components are read, written and checked against a model."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import ModelError
from leakmech.models.components import Component, parse_components, with_names
from leakmech.models.layout import layout_of

numbers = st.integers(0, 10_000)
components = st.one_of(
    st.builds(Component, numbers, st.sampled_from(["head", "neuron"]), numbers),
    st.builds(Component, numbers, st.sampled_from(["attn", "mlp"])),
)


@given(components)
def test_a_component_is_read_back_from_its_label(component):
    assert Component.parse(str(component)) == component


def test_labels_are_those_of_the_vocabulary():
    labels = ["L12H3", "L12N873", "L12.attn", "L12.mlp"]
    assert [str(Component.parse(label)) for label in labels] == labels
    assert Component.parse("L12N873") == Component(12, "neuron", 873)


@pytest.mark.parametrize("label", ["", "12H3", "L12", "L12H", "L12h3", "L-1H3", "L12.z", "L12H3 ", "L1²H3", "L12H3N4"])
def test_other_labels_are_refused(label):
    with pytest.raises(ModelError, match=r"write L12H3"):
        Component.parse(label)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("L3H0", "3 layers, 0 to 2"),
        ("L0H4", "4 heads in each layer"),
        ("L0N64", "64 neurons in each layer"),
        ("L9.mlp", "3 layers"),
    ],
)
def test_what_a_model_does_not_have_is_refused_with_what_it_has(make_tiny, label, message):
    layout = layout_of(make_tiny("llama-gqa"))
    Component.parse("L2H3").validate(layout)
    Component.parse("L2N63").validate(layout)
    with pytest.raises(ModelError, match=f"{label}.*{message}"):
        Component.parse(label).validate(layout)


def test_a_component_is_a_part_of_its_site(make_tiny):
    layout = layout_of(make_tiny("llama-gqa"))
    parts = {label: Component.parse(label) for label in ("L1H2", "L1N7", "L1.attn", "L1.mlp")}
    assert [part.site for part in parts.values()] == ["z", "mlp_post", "attn_out", "mlp_out"]
    assert [part.features(layout) for part in parts.values()] == [slice(16, 24), slice(7, 8), slice(None), slice(None)]


def test_lists_hold_each_component_once_and_of_the_right_kind():
    assert parse_components(["L0H1", Component(1, "head", 0)]) == (Component(0, "head", 1), Component(1, "head", 0))
    refused = [([], "at least one"), (["L0H1", "L0H1"], "twice"), (["L0N1"], "of kind head"), ("L0H1", "list")]
    for labels, message in refused:
        with pytest.raises(ModelError, match=message):
            parse_components(labels, kinds=["head"])


def test_a_pair_of_numbers_is_a_head_or_a_neuron_where_only_those_may_be():
    assert Component.parse((21, 1)) == Component.parse("L21H1")
    assert parse_components([(0, 1), "L0H2"], kinds=("head",)) == (Component(0, "head", 1), Component(0, "head", 2))
    assert parse_components([(0, 63)], kinds=("neuron",)) == (Component(0, "neuron", 63),)
    for wrong in ((1,), (1, 2, 3), (1, "a"), 12, (-1, 0)):
        with pytest.raises(ModelError):
            Component.parse(wrong)


@pytest.mark.parametrize(("kind", "name"), [("head", "L21H1"), ("neuron", "L21N1")])
def test_a_table_of_components_names_them_after_their_numbers(kind, name):
    frame = pd.DataFrame({"layer": [21], kind: [1], "score": [0.5]})
    named = with_names(frame, kind)
    assert list(named) == ["layer", kind, "name", "score"]
    assert named.loc[0, "name"] == name
    assert "name" not in frame
