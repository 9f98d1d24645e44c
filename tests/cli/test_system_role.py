"""A template that refuses the system role: every command has the way out that its error names."""

from __future__ import annotations

import pytest
from mechanism_samples import few_to_fit
from tiny_models import build_tiny, build_tokenizer
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ModelError

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    build_tiny("llama-gqa").save_pretrained(folder)
    tokenizer = build_tokenizer(chat=True)
    tokenizer.chat_template = NO_SYSTEM
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.fault("F18", "hints", "a template that refuses the system role: attribute, directions", "--system none")
@pytest.mark.parametrize(
    "command",
    [
        ["attribute", "--limit", "2"],
        ["directions", "--fit", "FEW", "--methods", "difference_of_means", "--layers", "1"],
    ],
)
def test_the_way_out_that_is_named_is_there(model, tmp_path, command):
    command = [few_to_fit(tmp_path) if part == "FEW" else part for part in command]
    arguments = [*command, "--model", model, "--dtype", "float32", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ModelError)
    assert "if it refuses the system role, use --system none" in str(refused.exception)
    done = CliRunner().invoke(app, [*arguments, "--system", "none"])
    assert done.exit_code == 0, done.output
