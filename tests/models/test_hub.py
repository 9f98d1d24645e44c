"""The hub, played by a server on this machine: what is asked of it, what is downloaded, how it fails."""

from __future__ import annotations

import json
import logging
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from leakmech.core.errors import EstimatorError, ModelError
from leakmech.models import hub
from leakmech.models.load import load_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves the files of `folder` as ``org/model``; ``org/gated`` exists and is refused; remembers the requests."""

    def __init__(self):
        self.folder = Path()
        self.requests: list[str] = []
        parent = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, *, with_body):
                path = self.path.partition("?")[0]
                parent.requests.append(path)
                status, headers, body = parent.reply(path)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def files(self):
        return {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*") if path.is_file()}

    def reply(self, path):
        as_json = {"Content-Type": "application/json"}
        if path.startswith("/api/models/org/gated"):
            return (
                403,
                {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/gated is restricted."},
                b"",
            )
        if path.startswith("/api/models/org/model/tree/"):
            entries = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": f"{i:040x}"}
                for i, (name, file) in enumerate(self.files().items())
            ]
            return 200, as_json, json.dumps(entries).encode()
        if path.endswith("/revision/absent"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if path.startswith("/api/models/org/model"):
            siblings = [{"rfilename": name} for name in self.files()]
            return 200, as_json, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode()
        if path.startswith("/org/model/resolve/"):
            name = path.split("/", 5)[5]
            if name in self.files():
                return 200, {"ETag": f'"{zlib.crc32(name.encode()):x}"'}, self.files()[name].read_bytes()
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return (200, {}, b"") if path == "/" else (404, {"X-Error-Code": "RepoNotFound"}, b"")

    def downloaded(self):
        return {path.split("/", 5)[5] for path in self.requests if path.startswith("/org/model/resolve/")}


@pytest.fixture
def online(monkeypatch, tmp_path):
    """`online(endpoint)`: an empty hub cache, and `endpoint` as the hub."""

    def set_endpoint(endpoint):
        close_session()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))

    yield set_endpoint
    close_session()


@pytest.fixture
def fake_hub(online):
    fake = FakeHub()
    online(fake.endpoint)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def _message(name, **options):
    with pytest.raises(ModelError) as caught:
        load_model(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_model_is_downloaded_once_and_then_needs_no_hub(fake_hub, save_tiny, monkeypatch):
    fake_hub.folder = save_tiny("llama-gqa")
    local = load_model(fake_hub.folder, dtype="float32", device="cpu")
    downloaded = load_model("org/model", dtype="float32", device="cpu")
    assert downloaded.weights_hash == local.weights_hash
    assert downloaded.tokenizer_hash == local.tokenizer_hash
    assert (downloaded.name, downloaded.revision) == ("org/model", COMMIT)
    assert downloaded.model.config._name_or_path == "org/model"

    fake_hub.requests.clear()
    assert load_model("org/model", dtype="float32", device="cpu").weights_hash == local.weights_hash
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_model("org/model", dtype="float32", device="cpu").weights_hash == local.weights_hash
    assert fake_hub.requests == []


def test_only_one_format_of_the_weights_is_downloaded(fake_hub, save_tiny):
    fake_hub.folder = save_tiny("llama-gqa")
    unwanted = [
        "pytorch_model.bin",
        "consolidated.safetensors",
        "model.gguf",
        "onnx/model.onnx",
        "original/params.json",
    ]
    for name in unwanted:
        (fake_hub.folder / name).parent.mkdir(exist_ok=True)
        (fake_hub.folder / name).write_bytes(b"0")
    hub.fetch("org/model")
    assert fake_hub.downloaded() == set(fake_hub.files()) - set(unwanted)


def test_adapter_on_the_hub_brings_its_local_base(fake_hub, save_tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    base = load_model(save_tiny("llama-gqa"))
    fake_hub.folder = tmp_path / "adapter"
    get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(fake_hub.folder)
    adapted = load_model("org/model")
    assert adapted.adapter is not None
    assert adapted.adapter.endswith(COMMIT)
    assert load_model("org/model").weights_hash == adapted.weights_hash


def test_interrupted_download_is_completed(fake_hub, save_tiny):
    fake_hub.folder = save_tiny("llama-gqa")
    folder = hub.fetch("org/model")
    weights = folder / "model.safetensors"
    blob = weights.resolve()
    weights.unlink()
    blob.unlink()
    assert not hub.is_complete(folder, tokenizer=True)
    assert hub.is_complete(hub.fetch("org/model"), tokenizer=True)


def test_unknown_gated_and_absent_revisions_are_told_apart(fake_hub, save_tiny):
    fake_hub.folder = save_tiny("gpt2")
    assert _message("org/absent") == (
        "org/absent: neither a local folder nor a model on the hub; if it is private, log in with `hf auth login`"
    )
    assert _message("org/gated") == (
        "org/gated: gated; accept its conditions on the hub, then log in with `hf auth login`"
    )
    assert _message("org/model", revision="absent") == "org/model: has no branch, tag or commit 'absent'"
    assert _message("not a name") == "not a name: neither a local folder nor a possible hub id"


def test_other_failures_of_the_hub_are_one_line(fake_hub, monkeypatch):
    monkeypatch.setattr(FakeHub, "reply", lambda _self, path: (200 if path == "/" else 418, {}, b"teapot"))
    message = _message("org/model")
    assert message.startswith("org/model: the download failed (")
    assert message.endswith("run it again to continue")


def test_unreachable_hub_is_reported_at_once_and_without_noise(online, caplog, capfd):
    online("http://127.0.0.1:9")  # nothing listens on the discard port
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert _message("org/model") == (
            "org/model: no such folder, not in the hub cache, and the hub cannot be reached; "
            "give a local folder or a name that starts with 'embedded:'"
        )
    assert time.monotonic() - started < 5
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_hub_that_never_answers_counts_as_unreachable_within_the_timeout(online, monkeypatch):
    online("http://127.0.0.1:9")

    class Hanging:
        def head(self, *_arguments, **_options):
            time.sleep(5)

    monkeypatch.setattr(hub, "get_session", Hanging)
    started = time.monotonic()
    assert not hub.hub_reachable(timeout=0.2)
    assert time.monotonic() - started < 2


def test_offline_mode_says_how_to_end_it_and_asks_nothing(fake_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.hub_reachable()
    assert _message("org/model") == (
        "org/model: no such folder, and not in the hub cache; unset HF_HUB_OFFLINE, or "
        "give a local folder or a name that starts with 'embedded:'"
    )
    assert fake_hub.requests == []


def test_any_answer_of_the_hub_counts_as_reachable(fake_hub, monkeypatch):
    assert hub.hub_reachable()
    monkeypatch.setattr(FakeHub, "reply", lambda _self, _path: (503, {}, b""))
    assert hub.hub_reachable()


def test_caller_chooses_the_class_of_error(fake_hub):
    with pytest.raises(EstimatorError, match="org/absent"):
        hub.fetch("org/absent", error=EstimatorError)


def test_weight_files_are_one_format_and_every_shard():
    def read(_name):
        return json.dumps(
            {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-1.safetensors"}}
        )

    assert hub.weight_files(["model.safetensors.index.json", "pytorch_model.bin"], read=read) == [
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert hub.weight_files(["pytorch_model.bin", "model.safetensors"], read=read) == ["model.safetensors"]
    assert hub.weight_files(["config.json"], read=read) == []
