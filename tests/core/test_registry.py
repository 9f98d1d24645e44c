"""A registry is a mapping that can be added to; wrong names are answered with the nearest one."""

import pytest

from leakmech.core.errors import ConfigError, DatasetError
from leakmech.core.registry import Registry


def test_what_is_added_is_found_beside_what_is_built_in():
    colours = Registry("colour", {"red": 1, "green": 2})
    colours.add("blue", 3)
    assert dict(colours) == {"red": 1, "green": 2, "blue": 3}
    assert (colours.find("blue"), colours["red"], len(colours), "green" in colours) == (3, 1, 3, True)
    assert colours.get("grey") is None


def test_a_name_is_taken_once_and_given_anew_only_where_that_is_meant():
    colours = Registry("colour", {"red": 1}, error=DatasetError)
    with pytest.raises(DatasetError, match=r"^colour 'red': the name is taken$"):
        colours.add("red", 2)
    colours.add("red", 2, replace=True)
    assert colours["red"] == 2


@pytest.mark.parametrize(
    ("unknown", "hint", "message"),
    [
        (None, "", "colour 'gren': no such name; did you mean 'green'?"),
        ("paint {name} is sold out", " (or mix it)", "paint 'gren' is sold out; did you mean 'green'? (or mix it)"),
    ],
)
def test_a_name_that_is_not_there_gets_the_nearest_one(unknown, hint, message):
    colours = Registry("colour", {"red": 1, "green": 2}, unknown=unknown)
    assert str(colours.missing("gren", hint=hint)) == message
    with pytest.raises(ConfigError, match="did you mean 'green'"):
        colours.find("gren")
    assert str(colours.missing("gren", valid=["grey"])).split("; ")[1] == "did you mean 'grey'?"
