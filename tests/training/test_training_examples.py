"""Collating: prompts as prefixes, padding on either side, the shared suffix; files of examples."""

from __future__ import annotations

import pytest
import torch

from leakmech.core.errors import DatasetError
from leakmech.training.examples import Collator, TrainingExample, check_examples, load_examples, save_examples


def spaces(text: str) -> list[int]:
    """A tokenizer of words that, as real ones do, joins a word with what stands directly after it."""
    return [sum(map(ord, word)) for word in text.split(" ")]


def make(name: str = "a", completion: str = " now then", **changes: object) -> TrainingExample:
    values = {"kind": "irrelevant", "prompt": "sad news the dog is", "reference": "x dog is"} | changes
    return TrainingExample(name, completion=completion, **values)  # pyright: ignore


class TestPrefixes:
    def test_a_completion_that_changes_the_prompts_tokens_is_refused_by_name(self) -> None:
        with pytest.raises(DatasetError, match=r"example a7: its prompt is not a token prefix .* part at token 4 of 5"):
            Collator(spaces, 0).encode(make("a7", completion="n't now"))

    def test_given_tokens_are_taken_as_they_are(self) -> None:
        encoded = Collator(spaces, 0).encode(make(completion="n't", tokens=(5, 6)))
        assert encoded.completion == (5, 6)

    def test_a_completion_is_cut_to_the_longest_text(self) -> None:
        assert len(Collator(spaces, 0, max_length=6).encode(make())) == 6
        with pytest.raises(DatasetError, match="example a: its prompt leaves no room in 5 tokens"):
            Collator(spaces, 0, max_length=5).encode(make())

    def test_an_empty_completion_is_refused(self) -> None:
        with pytest.raises(DatasetError, match="example a: has no completion"):
            Collator(spaces, 0).encode(make(tokens=()))

    def test_an_anchor_refers_to_its_own_prompt(self) -> None:
        with pytest.raises(DatasetError, match="example a: is relevant, so its reference must be its own prompt"):
            make(kind="relevant")
        with pytest.raises(DatasetError, match="did you mean 'relevant'"):
            make(kind="relevent")


@pytest.mark.parametrize("padding", ["left", "right"])
class TestBatches:
    def rows(self, padding: str):
        collator = Collator(spaces, 0, padding=padding)  # pyright: ignore
        short = make("b", " end", kind="plain", prompt="a cat", reference="a cat")
        return collator.batch([collator.encode(make()), collator.encode(short)])

    def test_positions_count_tokens_not_columns(self, padding) -> None:
        side = self.rows(padding).student
        for row, n in enumerate((7, 3)):
            real = side.attention_mask[row].bool()
            assert int(real.sum()) == n
            assert side.position_ids[row][real].tolist() == list(range(n))

    def test_the_shared_suffix_has_the_same_tokens_on_both_sides(self, padding) -> None:
        batch = self.rows(padding)
        assert batch.reference is not None
        assert batch.suffix_mask.sum(1).tolist() == [4, 3]  # "dog is" + 2 tokens; all of "a cat end"
        for row in range(2):
            mask = batch.suffix_mask[row]
            ours = batch.student.input_ids[row][batch.student.suffix[row][mask]]
            theirs = batch.reference.input_ids[row][batch.reference.suffix[row][mask]]
            assert torch.equal(ours, theirs)
            assert ours[-2:].tolist() == spaces(("now then", "cat end")[row])

    def test_predicting_columns_stand_before_their_targets(self, padding) -> None:
        batch = self.rows(padding)
        for row in range(2):
            mask = batch.target_mask[row]
            after = batch.student.predicting[row][mask] + 1
            assert torch.equal(batch.student.input_ids[row][after], batch.targets[row][mask])

    def test_references_are_left_out_where_nothing_asks_for_them(self, padding) -> None:
        collator = Collator(spaces, 0, padding=padding)
        rows = [collator.encode(make("a")), collator.encode(make("b", kind="plain", prompt="a cat", reference="a cat"))]
        batch = collator.batch(rows, with_reference={"plain"})
        assert batch.reference is not None
        assert batch.reference_rows.tolist() == [1]
        assert len(batch.reference.input_ids) == 1
        assert collator.batch(rows, with_reference=()).reference is None


class TestFiles:
    def test_examples_survive_a_file(self, tmp_path) -> None:
        examples = [make("a", tokens=(1, 2), polarity="negative"), make("b")]
        save_examples(tmp_path / "e.jsonl", examples)
        assert load_examples(tmp_path / "e.jsonl") == examples

    def test_wrong_lines_are_named(self, tmp_path) -> None:
        path = tmp_path / "e.jsonl"
        for text, message in (
            ('{"id": "a", "kynd": "plain"}', r"e\.jsonl:1: unknown field 'kynd'; did you mean 'kind'"),
            ('{"id": "a"}', r"e\.jsonl:1: field 'kind' is missing"),
        ):
            path.write_text(text + "\n")
            with pytest.raises(DatasetError, match=message):
                load_examples(path)
        save_examples(path, [make("a"), make("a")])
        with pytest.raises(DatasetError, match=r"e\.jsonl:2: field 'id': 'a' is already used in line 1"):
            load_examples(path)
        with pytest.raises(DatasetError, match="example a: its id occurs twice"):
            check_examples([make("a"), make("a")])
