"""Write ``configs/README.md``: every key of the commands' configuration files, from the descriptions of their settings.

python experiments/settings_page.py      # a test fails while the page is not current
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from leakmech.runs.options import Option, options_of
from leakmech.studies.sweep.spec import SETTINGS

PAGE = Path(__file__).parents[1] / "configs" / "README.md"
_FILES = PAGE.parent
_HEAD = """# Settings

Keys of the YAML files that the commands take; written by `experiments/settings_page.py` from the settings themselves.
`quick`, `score`, `compare` and `annotate export` take the file with `--config FILE`, the others as an argument. (The
file of `leakmech sweep` is [another](../leakmech/studies/sweep/README.md).) Options go over the file, the file over
what a run in `--out` stored.

Each key is an option as well: `prompt_form` is `--prompt-form`. A key of a group, such as `contrast.strength`, is
written inside that group. Its option has the name of the group before its own (`--contrast-strength`), except in
`decoding` (`--temperature`). An option that is spelled otherwise stands beside its key.

A group whose default is *off* is used only if it or one of its keys is given. The defaults of its keys, and
*required*, hold then. `contrast` of `bench` may also be a name (`contrast: toward-neutral`), or have one beside other
keys (`contrast: {preset: toward-neutral, strength: 0.5}`). On the command line, the name comes with the keys
(`--contrast NAME --contrast-strength 0.5`).
"""
_ALSO = {
    "quick": "leakmech.studies.quick.settings:QuickConfig",
    "score": "leakmech.studies.benchmark.settings:ScoreConfig",
    "compare": "leakmech.studies.benchmark.settings:CompareConfig",
    "annotate export": "leakmech.studies.annotation.settings:ExportConfig",
    "data build-aexl": "leakmech.studies.aexl.settings:AexlSettings",
}
"""Settings of other commands that take a file, by their command."""


def page() -> str:
    """The page."""
    files = "".join(f"| [{file.name}]({file.name}) | {_first_line(file)} |\n" for file in sorted(_FILES.glob("*.yaml")))
    shown: dict[str, str] = {}
    studies = "".join(_study(command, where, shown) for command, where in (SETTINGS | _ALSO).items())
    return f"{_HEAD}\n## Files\n\n| file | |\n| --- | --- |\n{files}{studies}"


def _study(command: str, where: str, shown: dict[str, str]) -> str:
    """The settings of a command; `shown` says which command had a block of them first."""
    module, _, name = where.partition(":")
    options = options_of(getattr(import_module(module), name))
    parts = [f"\n## leakmech {command}\n"]
    for heading in dict.fromkeys(option.heading for option in options):
        rows = "".join(_row(own) for own in options if own.heading == heading)
        first = shown.setdefault(rows, command)
        table = f"| key | meaning | default |\n| --- | --- | --- |\n{rows}"
        parts.append(f"\n**{heading}**" + (f"\n\n{table}" if first == command else f": as for `{first}`\n"))
    return "".join(parts)


def _row(own: Option) -> str:
    required, has_default = own.default is PydanticUndefined, own.default is not None
    default = "required" if required else f"`{_value(own.default)}`" if has_default else ""
    if own.role != "field":
        default = "off"
    return f"| `{'.'.join(own.path)}`{_spelled(own)} | {_cell(own.help)} | {default} |\n"


def _spelled(own: Option) -> str:
    """The option, where its name does not follow from the key."""
    names = (own.path, own.path[-1:])  # with the name of the group before its own, or without
    usual = [f"--{'-'.join(name).replace('_', '-')}" for name in names]
    regular = own.names[0] in usual and own.names[1:] in ((), (f"--no-{own.names[0].removeprefix('--')}",))
    return "" if regular else f" ({', '.join(f'`{name}`' for name in own.names)})"


def _value(default: Any) -> str:
    """A default as the file would have it."""
    text = yaml.safe_dump(
        json.loads(json.dumps(default, default=str)), default_flow_style=True, width=10_000, allow_unicode=True
    )
    return _cell(text.removesuffix("\n").removesuffix("\n...").strip())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _first_line(file: Path) -> str:
    """The first sentence of the comment at its head."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    text = " ".join(lines).replace("et al. ", "et al.\xa0")
    sentence = re.split(r"\. |:? leakmech ", text)[0]
    return _cell(sentence.rstrip(".:"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
