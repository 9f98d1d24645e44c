"""Fixtures of all studies' tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory, make_tiny, chat_tokenizer) -> Path:
    """A saved tiny model with the chat tokenizer, shared by the session: leave its files as they are."""
    path = tmp_path_factory.mktemp("model")
    make_tiny("llama-gqa").save_pretrained(path)
    chat_tokenizer.save_pretrained(path)
    return path
