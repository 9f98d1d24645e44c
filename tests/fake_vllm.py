"""A FAKE of the package vllm, for machines without it: not vLLM, and no evidence of how vLLM draws.

What it takes and gives is recorded from the source of vLLM 0.32.0: the names of arguments, what ``SamplingParams`` and
``LoRARequest`` refuse, the checks of a request, which token ends it, and the fields of what comes back. Types are
checked more strictly than there. Answers come from the Hugging Face model in the folder, step by step on the CPU, with
penalty, temperature, top-k and top-p in vLLM's order and a generator for each seed; or from `script`, if that is set.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from leakmech.core.store import read_json

VERSION = "0.32.0+fake"
LLM_ARGUMENTS = (
    "runner", "convert", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code",
    "tensor_parallel_size", "dtype", "quantization", "revision", "tokenizer_revision", "seed",
    "gpu_memory_utilization", "cpu_offload_gb", "enforce_eager", "hf_token", "hf_overrides", "kv_cache_memory_bytes",
    "compilation_config", "logits_processors", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "enable_chunked_prefill", "enable_prefix_caching", "disable_log_stats", "generation_config", "enable_lora",
    "max_loras", "max_lora_rank", "fully_sharded_loras", "max_cpu_loras", "lora_dtype",
)  # fmt: skip
CPU_TOKENS_AT_ONCE = 4096  # of prompts, in one step
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass
class SamplingParams:
    """The fields that a request for text may set."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "min_p"):
            if type(getattr(self, name)) not in (float, int):
                raise TypeError(f"{name} must be a number")
        for name in ("n", "top_k", "max_tokens", "seed"):
            if type(getattr(self, name)) not in (int, type(None)):
                raise TypeError(f"{name} must be an int")
        valid = {
            "n must be at least 1": self.n >= 1,
            "repetition_penalty must be greater than zero": self.repetition_penalty > 0,
            "temperature must be in [0, 2]": 0 <= self.temperature <= 2,
            "top_p must be in (0, 1]": 0 < self.top_p <= 1,
            "top_k must be 0 (disable), or at least 1": self.top_k >= -1,
            "max_tokens must be at least 1": self.max_tokens is None or self.max_tokens >= 1,
            "stop_token_ids must contain only integers": all(type(i) is int for i in self.stop_token_ids or ()),
            "seed must fit into 64 bits": self.seed is None or -(2**63) <= self.seed < 2**63,
        }
        for message, holds in valid.items():
            if not holds:
                raise ValueError(message)
        if 0 < self.temperature < 0.01:
            self.temperature = 0.01


@dataclass
class LoRARequest:
    """An adapter that goes along with a request."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""
    base_model_name: str | None = None
    load_inplace: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.lora_name, str) and isinstance(self.lora_path, str) and self.lora_path):
            raise TypeError("lora_name and lora_path must be texts")
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: LoRARequest | None = None


@dataclass
class RequestOutput:
    """All answers of one request."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: Any
    outputs: list[CompletionOutput]
    finished: bool
    lora_request: LoRARequest | None = None


@dataclass
class Fake:
    """What a test sees and sets: engines that were made, requests that were answered, and scripted answers."""

    made: list[dict[str, Any]] = field(default_factory=list)
    calls: list[list[tuple[list[int], SamplingParams, LoRARequest | None]]] = field(default_factory=list)
    shut_down: int = 0
    script: Callable[[list[int], SamplingParams], tuple[list[int], str]] | None = None
    """Token ids and finish reason of an answer, by prompt and settings."""

    @property
    def requests(self) -> list[tuple[list[int], SamplingParams, LoRARequest | None]]:
        return [request for call in self.calls for request in call]


def install(monkeypatch: Any) -> Fake:
    """Put the fake in the place of the package for one test."""
    fake = Fake()

    class Platform:
        device_type = "cpu"

        @staticmethod
        def get_device_name(device_id: int = 0) -> str:
            return "fake device"

    names = ("vllm", "vllm.platforms", "vllm.lora", "vllm.lora.request")
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        monkeypatch.setitem(sys.modules, name, module)
    top: Any = modules["vllm"]
    top.__version__, top.SamplingParams = VERSION, SamplingParams
    top.LLM = lambda model, **given: _LLM(fake, model, **given)
    top.TokensPrompt = _tokens_prompt
    vars(modules["vllm.platforms"])["current_platform"] = Platform
    vars(modules["vllm.lora.request"])["LoRARequest"] = LoRARequest
    return fake


def _tokens_prompt(*, prompt_token_ids: list[int]) -> dict[str, Any]:
    return {"prompt_token_ids": prompt_token_ids}


@dataclass
class _EngineCore:
    """What holds the processes of an engine."""

    fake: Fake

    def shutdown(self, timeout: float | None = None) -> None:
        self.fake.shut_down += 1


@dataclass
class _LLMEngine:
    engine_core: _EngineCore


class _LLM:
    """One engine."""

    def __init__(self, fake: Fake, model: str, **given: Any) -> None:
        unknown = given.keys() - set(LLM_ARGUMENTS)
        if unknown or not isinstance(model, str):
            raise TypeError(f"EngineArgs.__init__() got an unexpected keyword argument {sorted(unknown)}")
        config = read_json(Path(model) / "config.json")
        self.limit = given.get("max_model_len") or config["max_position_embeddings"]
        if self.limit > config["max_position_embeddings"]:
            raise ValueError(f"User-specified max_model_len ({self.limit}) is greater than the derived one")
        self.lora_rank = given.get("max_lora_rank", 16) if given.get("enable_lora") else None
        if self.lora_rank not in (None, *LORA_RANKS):
            raise ValueError(f"max_lora_rank must be one of {LORA_RANKS}")
        self.llm_engine = _LLMEngine(_EngineCore(fake))
        self.chunked_prefill = given.get("enable_chunked_prefill", True)
        self.fake, self.folder, self.dtype = fake, model, getattr(torch, given["dtype"])
        self.models: dict[str, Any] = {"": self._load()}
        # Without a tokenizer, the end tokens are those of the generation config.
        ends = self.models[""].generation_config.eos_token_id
        self.own_ends = set(ends if isinstance(ends, list) else [ends])
        fake.made.append({"model": model, **given})

    def _load(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).eval()

    def generate(
        self,
        prompts: Any,
        sampling_params: Any = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
        priority: Any = None,
        tokenization_kwargs: Any = None,
        mm_processor_kwargs: Any = None,
    ) -> list[RequestOutput]:
        if len(prompts) != len(sampling_params):
            raise ValueError("The lengths of prompts and params must be the same.")
        call = []
        for prompt, params in zip(prompts, sampling_params, strict=True):
            ids = prompt["prompt_token_ids"]
            if prompt.keys() != {"prompt_token_ids"} or not all(type(i) is int for i in ids) or not ids:
                raise TypeError("a tokenized prompt is a list of ints that is not empty")
            if len(ids) >= self.limit:
                raise ValueError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
            call.append((ids, params, lora_request))
        in_pieces = self.chunked_prefill and sum(len(ids) for ids, _, _ in call) > CPU_TOKENS_AT_ONCE
        if in_pieces and any(params.seed is not None for _, params, _ in call):
            raise RuntimeError("CPU Generator does not use offset")
        self.fake.calls.append(call)
        return [self._answer(str(i), *request) for i, request in enumerate(call)]

    def _answer(self, name: str, ids: list[int], params: SamplingParams, lora: LoRARequest | None) -> RequestOutput:
        stop_reason = None
        if self.fake.script is not None:
            tokens, reason = self.fake.script(ids, params)
        else:
            tokens, reason, stop_reason = self._drawn(ids, params, self._model(lora))
        text = "" if not params.detokenize else "text"
        own = CompletionOutput(0, text, tokens, None, None, reason, stop_reason, lora)
        return RequestOutput(name, None, ids, None, [own], True, lora)

    def _model(self, lora: LoRARequest | None) -> Any:
        if lora is None:
            return self.models[""]
        if self.lora_rank is None:
            raise ValueError("LoRA is not enabled!")
        if read_json(Path(lora.lora_path) / "adapter_config.json")["r"] > self.lora_rank:
            raise ValueError("LoRA rank is greater than max_lora_rank")
        if lora.lora_path not in self.models:
            self.models[lora.lora_path] = PeftModel.from_pretrained(self._load(), lora.lora_path).eval()
        return self.models[lora.lora_path]

    @torch.inference_mode()
    def _drawn(self, ids: list[int], params: SamplingParams, model: Any) -> tuple[list[int], str, int | None]:
        generator = torch.Generator()
        if params.seed is not None:
            generator.manual_seed(params.seed)
        tokens: list[int] = []
        while True:
            logits = model(input_ids=torch.tensor([[*ids, *tokens]]), use_cache=False).logits[0, -1].float()
            tokens.append(_draw(logits, torch.tensor([*ids, *tokens]), params, generator))
            if tokens[-1] in self.own_ends and not params.ignore_eos:
                return tokens, "stop", None
            if tokens[-1] in (params.stop_token_ids or ()):
                return tokens, "stop", tokens[-1]
            if len(ids) + len(tokens) >= self.limit or len(tokens) >= (params.max_tokens or self.limit):
                return tokens, "length", None


def _draw(logits: torch.Tensor, seen: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    own = logits[seen]
    logits[seen] = torch.where(own > 0, own / params.repetition_penalty, own * params.repetition_penalty)
    if params.temperature < 1e-5:
        return int(logits.argmax())
    ordered, order = (logits / params.temperature).sort()
    if params.top_k > 0:
        ordered[ordered < ordered[-min(params.top_k, len(ordered))]] = -torch.inf
    ordered[:-1][ordered.softmax(0).cumsum(0)[:-1] <= 1 - params.top_p] = -torch.inf
    noise = torch.empty_like(ordered).exponential_(generator=generator)
    return int(order[(ordered.softmax(0) / noise).argmax()])
