"""Models that write a given chain of tokens: one-hot embeddings, silent layers, and a table of what follows what."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from tiny_models import build_tokenizer
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

NEW_LINE = "\u010a"
"""How a byte-level vocabulary writes a line break; a ChatML prompt ends with it."""


def save_chain(
    folder: Path,
    steps: Sequence[str],
    *,
    trigger: str = NEW_LINE,
    specials: Collection[str] = (),
    template: str | None = None,
) -> Path:
    """Save a model that writes the tokens `steps` after the token `trigger`, and ends with the last of them.

    Steps that are no tokens yet are added; those in `specials` are left out of decoded texts. `template` replaces
    ChatML.
    """
    tokenizer = build_tokenizer(chat=True)
    tokenizer.chat_template = template or tokenizer.chat_template
    new = [step for step in dict.fromkeys([trigger, *steps]) if step not in tokenizer.get_vocab()]
    tokenizer.add_tokens([AddedToken(step, special=step in specials, normalized=False) for step in new])
    size, ids = len(tokenizer), tokenizer.convert_tokens_to_ids([trigger, *steps])
    config = LlamaConfig(
        vocab_size=size, hidden_size=-(-size // 8) * 8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=2048, bos_token_id=256, eos_token_id=258, pad_token_id=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name or "lm_head" in name:
                parameter.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        for token, following in zip(ids, [*ids[1:], ids[-1]], strict=True):
            model.lm_head.weight[following, token] = 100.0
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
