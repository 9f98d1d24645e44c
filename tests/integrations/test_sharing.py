"""Cards and uploads: what stands in a card, what is refused, and what the hub gets (a stub of it)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_stub import hub_stub

import leakmech
from leakmech.core.errors import LeakmechError, UsageError
from leakmech.integrations.sharing import push, read_artefact, write_card

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
EDITS = RUNS / "interventions" / "edits.json"
DIRECTION = RUNS / "diagnose" / "directions" / "read.json"
ADAPTER = RUNS / "train"
AEXL = RUNS / "aexl" / "aexl.jsonl"


def head(card: str) -> dict:
    before, values, _ = card.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(values)


@pytest.mark.parametrize(
    ("path", "kind", "files"),
    [
        (EDITS, "interventions", {"edits.json", "edits.safetensors"}),
        (DIRECTION, "direction", {"read.json", "read.safetensors"}),
        (ADAPTER, "adapter", {"adapter_config.json", "adapter_model.safetensors", "adapter_card.json"}),
        (AEXL, "data set", {"data/test.jsonl", "data/fit.jsonl", "data/tune.jsonl"}),
        ("hexl", "data set", {"data/test.jsonl"}),
    ],
)
def test_an_artefact_is_its_files_and_a_card(path, kind, files):
    artefact = read_artefact(path)
    assert (artefact.kind, set(artefact.files)) == (kind, files)
    assert "leakmech" in head(artefact.card)["tags"]
    assert "base_model" not in head(artefact.card)  # of a tiny model, which is not on the hub
    assert artefact.repo_type == ("dataset" if kind == "data set" else "model")


def test_a_card_tells_what_an_intervention_does_and_the_leakage_of_a_run(tmp_path):
    for file in EDITS.parent.iterdir():
        shutil.copy(file, tmp_path)
    assert "No leakage was measured with it" in read_artefact(tmp_path / "edits.json").card
    path = write_card(tmp_path / "edits.json", runs=[RUNS / "bench"])
    assert path == tmp_path / "edits.md"
    card = path.read_text()
    assert "z_h <- scale_h * z_h" in card
    overall = leakmech.load_result(RUNS / "bench").summary["overall"]
    low, high = overall["auc_el_ci"]
    assert f"| {overall['auc_el']:.2f} | [{low:.2f}, {high:.2f}] |" in card


def test_a_file_of_a_comparison_of_mitigations_has_its_row():
    found = sorted((RUNS / "mitigate" / "interventions").glob("*.json"))
    card = read_artefact(found[0]).card
    assert card.count("\n| base |") == 1
    assert card.count("\n| ignore-if-unrelated-0.8 |") == 1  # the member that was chosen, on the test split
    assert "ignore-if-unrelated-0.9" not in card


def test_the_card_of_a_data_set_has_its_splits_and_its_datasheet():
    card = read_artefact(AEXL).card
    (config,) = head(card)["configs"]
    assert {own["split"]: own["path"] for own in config["data_files"]} == {
        "test": "data/test.jsonl",
        "fit": "data/fit.jsonl",
        "tune": "data/tune.jsonl",
    }
    assert AEXL.with_suffix(".md").read_text() in card
    assert "No human has judged them" in " ".join(read_artefact("hexl").card.split())


@pytest.mark.parametrize("name", ["hexl-mild", "hexl-frozen", "relevant-matched", "self-frozen"])
def test_every_built_in_data_set_has_its_datasheet(name):
    assert "No datasheet" not in read_artefact(name).card


def test_what_is_not_an_artefact_is_refused(tmp_path):
    (tmp_path / "notes.json").write_text('{"a": 1}')
    for path in (tmp_path, tmp_path / "notes.json", RUNS / "bench"):
        with pytest.raises(UsageError, match=r"is not an adapter folder, a \.json file of a direction"):
            push(path, "me/it")
    with pytest.raises(UsageError, match="no such file, folder or built-in data set"):
        push(tmp_path / "gone", "me/it")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"not an adapter that leakmech trained \(it has no adapter_model"):
        push(tmp_path, "me/it")
    with pytest.raises(LeakmechError, match="is not a run of leakmech bench or score"):
        write_card(EDITS, runs=[RUNS / "train"])
    with pytest.raises(UsageError, match="is built in"):
        write_card("hexl")


def test_a_wrong_repository_and_a_missing_token_are_said_before_anything_is_sent(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="write it as owner/name"):
        push(EDITS, "me//it")
    with pytest.raises(UsageError, match="no token for the hub; set HF_TOKEN"):
        push(EDITS, "me/it")


def called(*arguments, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    variables |= {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_TOKEN": "hf_stub", **environment}
    command = [sys.executable, "-m", "leakmech", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)


@pytest.mark.long
def test_the_hub_gets_files_and_card():
    with hub_stub() as hub:
        done = called("push", EDITS, "me/edits", HF_ENDPOINT=hub.address)
    assert done.returncode == 0, done.stderr
    assert "me/edits" in done.stdout
    (created,) = hub.created
    assert (created["name"], created["organization"], created["visibility"]) == ("edits", "me", "private")
    assert set(hub.files) == {"README.md", "edits.json", "edits.safetensors"}
    assert hub.files["edits.safetensors"] == EDITS.with_suffix(".safetensors").read_bytes()
    assert head(hub.files["README.md"].decode())["library_name"] == "leakmech"
    assert hub.tokens == {"Bearer hf_stub"}


@pytest.mark.long
def test_a_hub_that_cannot_be_reached_is_said_in_a_line():
    done = called("push", EDITS, "me/edits", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.startswith("leakmech: push: the hub did not take 'me/edits'")
    assert len(done.stderr.splitlines()) == 1
