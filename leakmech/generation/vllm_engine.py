"""The engine on vLLM: whole answers from ``LLM.generate``, one seeded request a row, cut where our rows end.

1. vLLM reads the folder of the model (:func:`served`). Weights that lie in no folder, such as folded ones, are written
   into a temporary one first; a LoRA adapter goes along as a ``LoRARequest``. This process keeps its own copy of the
   model in main memory: its hashes, its tokenizer and its limits are those of the run.
2. A request holds our token ids, a seed made of (seed, prompt, generation), and the decoding settings as
   ``SamplingParams``. Repetition penalty (over prompt and answer), temperature, top-k and top-p come in our order.
3. vLLM knows end tokens, but no rule about texts. Its ids are read again token by token (:mod:`leakmech.generation.
   ending`) and cut at the end of the first sentence that is no echo, so that generations look as those of the other
   engine do; what was drawn beyond is thrown away. A row whose reasoning took the room of its answer goes on with
   another request after what it has said.
4. Rows go to vLLM in chunks, which are yielded as they end.

Draws are seeded, not coupled: how many rows vLLM steps together changes roundings, and with them answers, unless it is
started with ``VLLM_BATCH_INVARIANT=1``. Engines can agree in distribution only, never bit by bit;
``experiments/engine_equality.py`` tests it. NaN logits are not noticed. Tried on vLLM 0.32.0 for CPUs; on a GPU it is
untested.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import time
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch

from leakmech.core.errors import ConfigError, GenerationError, ModelError
from leakmech.core.seeds import request_seed
from leakmech.core.store import read_json, storage_errors
from leakmech.generation.decode import Clock, Generation, LogitCombination, Row, generation_of
from leakmech.generation.decoding import Decoding
from leakmech.generation.ending import Ending, LiveRow, StopRule
from leakmech.generation.engine import refuse_incapable
from leakmech.generation.engines import ENGINES, Capabilities
from leakmech.generation.vocabulary import Vocabulary
from leakmech.interventions.applied import Applied
from leakmech.models.adapters import GATED, base_of, is_peft
from leakmech.models.batching import parse_batch_size
from leakmech.models.device import dtype_name, resolve_dtype
from leakmech.models.hub import ADAPTER_CONFIG
from leakmech.models.limits import n_positions
from leakmech.models.load import LoadedModel
from leakmech.models.quiet import quiet

BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""The variable of the environment with which vLLM is asked for kernels that do not depend on the batch."""
_KIND = ENGINES["vllm"]
_ROWS_PER_CHUNK = 1000
_CONTEXT = 16384  # tokens of prompt and answer; room for all that a long-context model reads would be missed elsewhere
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks for which vLLM can make room."""
_UNSERVED = (
    "use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication", "use_qalora",
    "use_bdlora", "alora_invocation_tokens", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Settings of PEFT's LoRA that vLLM does not know, or that some of its versions pass over."""
_OWN_INITS = ("gaussian", "eva", "orthogonal")
"""Ways to initialise LoRA that leave the base weights as they are, and so leave no trace in a finished adapter."""


@dataclass(frozen=True, eq=False)
class VLLMEngine:
    """An :class:`~leakmech.generation.engine.Engine` that draws with vLLM; `loaded` is this process's own copy."""

    loaded: LoadedModel
    clock: Clock = field(default_factory=Clock)
    name: str = field(default=_KIND.name, init=False)
    capabilities: Capabilities = field(default=_KIND.capabilities, init=False)

    @classmethod
    def of(cls, loaded: LoadedModel) -> VLLMEngine:
        """The engine of a loaded model; vLLM itself starts when rows are asked for.

        Raises
        ------
        ModelError
            vLLM cannot serve its adapter.
        """
        if is_peft(loaded.model):
            adapter_rank(loaded)
        return cls(loaded)

    @staticmethod
    def placement(*, device: str, dtype: str) -> tuple[str, str]:
        """Where our own copy is loaded: in main memory, in the number format in which vLLM serves the model.

        Raises
        ------
        ConfigError
            vLLM is not installed, or runs on another device.
        """
        own = _platform().device_type
        if device not in ("auto", own):
            raise ConfigError(
                f"engine {_KIND.name!r}: this vLLM runs on {own}, on the first device that it sees, "
                f"not on {device!r}; leave the device out, and choose one with CUDA_VISIBLE_DEVICES"
            )
        return "cpu", dtype_name(resolve_dtype(dtype, device=torch.device(own)))

    def identity(self) -> dict[str, str]:
        """Version, device and batch invariance of vLLM."""
        return {
            "engine": self.name,
            "engine_version": str(_vllm().__version__),
            "engine_device": str(_platform().get_device_name()),
            "batch_invariant": "yes" if os.environ.get(BATCH_INVARIANT, "0").strip() not in ("", "0") else "no",
        }

    def auto_batch_size(self, *, longest_prompt: int, max_new_tokens: int, n_streams: int = 1) -> int:  # noqa: ARG002
        """Rows that are handed over together; how many of them step together is for vLLM to decide."""
        return _ROWS_PER_CHUNK

    def complete(
        self,
        rows: Sequence[Row],
        decoding: Decoding,
        *,
        seed: int = 0,
        stop: StopRule | None = None,
        combination: LogitCombination | None = None,
        applied: Applied | None = None,
        batch_size: int | str = "auto",
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """See :meth:`leakmech.generation.engine.Engine.complete`; chunks of `batch_size` rows are yielded as they end.

        Raises
        ------
        ConfigError
            Hooks, contrastive decoding or decoding settings that vLLM does not have.
        ModelError
            A prompt with its answer is longer than what the model reads; or vLLM cannot serve the model.
        GenerationError
            vLLM gave up on a request.
        """
        refuse_incapable(self, Capabilities(hooks=applied is not None, contrast=combination is not None))
        _KIND.refuse(Capabilities(), decoding)
        left_out = set(done)
        waiting = [row for row in rows if (row.prompt_id, row.generation) not in left_out]
        waiting.sort(key=lambda row: row.block)
        ending = Ending(Vocabulary(self.loaded.model, self.loaded.tokenizer, decoding.markers), decoding, stop)
        size = parse_batch_size(batch_size) or _ROWS_PER_CHUNK
        for start in range(0, len(waiting), size):
            started = time.perf_counter()
            ended = self._completed(waiting[start : start + size], ending, seed)
            self.clock.total += time.perf_counter() - started
            yield ended

    def _completed(self, rows: Sequence[Row], ending: Ending, seed: int) -> list[Generation]:
        """All of a chunk: nearly always one request a row, more where reasoning took the room of the answer."""
        begun = ending.begin((row.prompt_id, row.generation, row.prompt_tokens) for row in rows)
        for row, live in zip(rows, begun, strict=True):
            self._refuse_beyond(row, _budget(live, ending))
        unfinished = list(zip(rows, begun, strict=True))
        while unfinished:
            asked = [(row, live, self._room(row, live, ending)) for row, live in unfinished]
            outputs = self._generate(
                [[*row.prompt_tokens, *live.tokens] for row, live, _ in asked],
                [_sampling(live, ending, room, seed) for _, live, room in asked],
            )
            for (_, live, _), output in zip(asked, outputs, strict=True):
                _read_again(live, output, ending)
            for row, live in unfinished:
                if live.finish is None and self._room(row, live, ending) < 1:
                    live.finish = "length"
            unfinished = [(row, live) for row, live in unfinished if live.finish is None]
        return [generation_of(live, ending) for live in begun]

    def _generate(self, prompts: Sequence[list[int]], settings: Sequence[dict[str, Any]]) -> list[Any]:
        """One answer (``CompletionOutput``) a prompt, in their order."""
        vllm, llm, lora = _vllm(), self._llm, self._lora
        started = time.perf_counter()
        try:
            found = llm.generate(
                [vllm.TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
                [vllm.SamplingParams(**own) for own in settings],
                use_tqdm=False,
                lora_request=lora,
            )
        except Exception as error:  # its errors have no class in common
            raise GenerationError(f"vLLM: {error}") from error
        self.clock.forward += time.perf_counter() - started
        answers = [one.outputs[0] for one in found]
        self.clock.row_steps += sum(len(answer.token_ids) for answer in answers)
        return answers

    def _room(self, row: Row, live: LiveRow, ending: Ending) -> int:
        """Tokens that the next request of a row may have."""
        return min(_budget(live, ending), self._capacity - len(row.prompt_tokens) - len(live.tokens))

    def _refuse_beyond(self, row: Row, new_tokens: int) -> None:
        if len(row.prompt_tokens) + new_tokens > self._capacity:
            raise ModelError(
                f"prompt {row.prompt_id!r}: has {len(row.prompt_tokens)} tokens and up to {new_tokens} are to come; "
                f"vLLM has room for {self._capacity}; shorten it, or lower --max-new-tokens"
            )

    @cached_property
    def _capacity(self) -> int:
        """Tokens that prompt and answer may have."""
        return min(n_positions(self.loaded.model) or _CONTEXT, _CONTEXT)

    @cached_property
    def _lora(self) -> Any:
        """The adapter that goes along with every request, if the model has one."""
        if not is_peft(self.loaded.model):
            return None
        return _vllm("vllm.lora.request").LoRARequest("adapter", 1, self.loaded.adapter)

    @cached_property
    def _llm(self) -> Any:
        """vLLM with the model; made when it is first asked for."""
        loaded = self.loaded
        # Code that came with the model runs in this process only if the user allowed it.
        more: dict[str, Any] = {
            "trust_remote_code": type(base_of(loaded.model)).__module__.startswith("transformers_modules.")
        }
        if is_peft(loaded.model):
            rank = adapter_rank(loaded)
            more |= {"enable_lora": True, "max_lora_rank": next(room for room in _RANKS if room >= rank)}
        if _platform().device_type == "cpu":
            more |= _for_cpus()
        with served(loaded) as folder:
            try:
                made = _vllm().LLM(
                    model=str(folder),
                    skip_tokenizer_init=True,
                    dtype=dtype_name(loaded.dtype),
                    max_model_len=self._capacity,
                    **more,
                )
            except Exception as error:  # its errors have no class in common
                raise ModelError(f"{loaded.name}: vLLM cannot serve it ({error})") from error
        atexit.register(_shut_down, weakref.ref(made.llm_engine.engine_core))
        return made


def _vllm(module: str = "vllm") -> Any:
    """The package or a module of it, which says only what is wrong unless the environment asks for more."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f'engine {_KIND.name!r}: vLLM cannot be imported ({error}); install it with: pip install -e ".[vllm]"'
        ) from error


def _platform() -> Any:
    """What vLLM runs on: its type and its name."""
    return _vllm("vllm.platforms").current_platform


def _for_cpus() -> dict[str, Any]:
    """Settings without which vLLM 0.32 does not draw on a CPU.

    A prompt that is read in pieces sets the generator of its request back, which one of a CPU cannot ("CPU Generator
    does not use offset"). The cache takes a part of the memory that is free; by default vLLM asks for 92 % of all.
    """
    return {"enable_chunked_prefill": False, "kv_cache_memory_bytes": psutil.virtual_memory().available // 4}


def _shut_down(core: weakref.ref[Any]) -> None:
    """Stop the processes of an engine that is still there: Python waits for them before it frees the engine."""
    if (running := core()) is not None:
        running.shutdown()


# -- requests and answers ----------------------------------------------------------------------------------------------


def _budget(live: LiveRow, ending: Ending) -> int:
    """Tokens that a row may still have: of its reasoning, if it reasons, and of its answer."""
    decoding = ending.decoding
    left = ending.most_tokens(live) - (len(live.tokens) - live.answer_start)
    return left + decoding.max_new_tokens if live.thinking else left


def _sampling(live: LiveRow, ending: Ending, room: int, seed: int) -> dict[str, Any]:
    """The settings of a row's next request."""
    decoding = ending.decoding
    later = (len(live.tokens),) if live.tokens else ()
    return {
        "temperature": float(decoding.sampling_temperature),
        "top_k": decoding.top_k,
        "top_p": decoding.top_p,
        "repetition_penalty": decoding.repetition_penalty,
        "max_tokens": room,
        "seed": request_seed(seed, live.prompt_id, live.generation, *later),
        "stop_token_ids": sorted(ending.ends(live)),
        "detokenize": False,
    }


def _read_again(live: LiveRow, answer: Any, ending: Ending) -> None:
    """Take over the tokens of an answer, up to where the row ends."""
    if answer.finish_reason not in ("stop", "length"):
        raise GenerationError(f"prompt {live.prompt_id!r}: vLLM gave up on it ({answer.finish_reason})")
    tokens = list(answer.token_ids)
    for token in tokens:
        ending.append(live, token)
        if live.finish is not None:
            return
    # An end token may be left out of the ids; one that ends answers, but no reasoning, is among them.
    if answer.finish_reason == "stop" and (not tokens or tokens[-1] not in ending.vocabulary.ends):
        live.finish = "stop"
    elif not tokens:
        raise GenerationError(f"prompt {live.prompt_id!r}: vLLM returned no token")


# -- what vLLM reads ---------------------------------------------------------------------------------------------------


@contextmanager
def served(loaded: LoadedModel) -> Iterator[Path]:
    """The folder of the weights; of those in memory only, a copy on disk for as long as this is entered."""
    if loaded.folder is not None:
        yield Path(loaded.folder)
        return
    with tempfile.TemporaryDirectory(prefix="leakmech-vllm-") as temporary:
        with storage_errors(Path(temporary)), quiet():
            loaded.model.save_pretrained(temporary)
            loaded.tokenizer.save_pretrained(temporary)
        yield Path(temporary)


def adapter_rank(loaded: LoadedModel) -> int:
    """The rank of a PEFT model's LoRA adapter.

    Raises
    ------
    ModelError
        vLLM cannot serve it as it is; the message names the way out.
    """
    if loaded.adapter is None or loaded.folder is None:
        raise ModelError(
            f"{loaded.name}: vLLM reads an adapter and its base from their folders, and not from memory; name both, or "
            "merge the adapter into the weights"
        )
    folder = Path(loaded.adapter)
    config = read_json(folder / ADAPTER_CONFIG)
    kind, rank, start = config.get("peft_type"), config.get("r"), config.get("init_lora_weights", True)
    if kind == GATED:
        raise ModelError(f"{folder}: vLLM cannot serve a gated adapter, nor can it be merged; run it with --engine hf")
    used = [name for name in _UNSERVED if config.get(name)]
    if kind != "LORA":
        reason = f"its type is {kind}"
    elif used or config.get("bias", "none") != "none":
        reason = f"it has {', '.join(used) or 'biases'}"
    elif isinstance(start, str) and start.lower() not in _OWN_INITS:
        reason = f"its initialisation, {start}, changes the base"
    elif not isinstance(rank, int) or not 1 <= rank <= _RANKS[-1]:
        reason = f"its rank is {rank}, and the largest is {_RANKS[-1]}"
    else:
        return rank
    raise ModelError(
        f"{folder}: vLLM cannot serve this adapter ({reason}); merge it and run what comes out: leakmech merge-lora "
        f"{folder} --out FOLDER"
    )
