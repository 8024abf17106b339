"""A base model with its LoRA experts, from folders into memory, and one pass through them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    AdapterInvalidError,
    BackendRequestError,
    BackendUnavailableError,
    PromptTooLongError,
    SettingsError,
)
from ..types import clean_text
from .adapters import Adapter, check_base
from .base import ChatMessage, Request
from .generation import CUT_OFF, Row, TextStream
from .grammar import Grammars

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from .engine import Source

log = logging.getLogger(__name__)

_BASE = "__base__"  # peft's word for a row without an adapter
_CACHED_ATTENTION = {"full_attention", "sliding_attention"}
_SMALL_MACHINE = 4  # cores


class Checkpoint:
    """A loaded model. For one thread.

    Raises:
        SettingsError: the folder holds no model that can be used here, or the device is not there.
        AdapterInvalidError: an adapter does not belong to this base model.
        BackendUnavailableError: the weights could not be read or do not fit into memory.
    """

    def __init__(self, source: Source) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        limit_threads(source.threads)
        self.device = _device(source.device)
        self._folder = source.folder
        with readable(source.folder):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                source.folder, local_files_only=True, trust_remote_code=False
            )
            check_tokenizer(self._tokenizer, source.folder)
            model: Any = AutoModelForCausalLM.from_pretrained(
                source.folder,
                dtype=_dtype(source.dtype, self.device),
                local_files_only=True,
                trust_remote_code=False,
            )
            _check_attention(model, source.folder)
            model = model.to(self.device)
        self.window = window(model, self._tokenizer)
        self.stops = stops(model, self._tokenizer)
        self.padding: int = self.stops[0]
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._grammars = Grammars(self._tokenizer, vocabulary, self.stops)
        self._names = {expert: f"lora{place}" for place, (expert, _) in enumerate(source.adapters)}
        for expert, adapter in source.adapters:
            model = _attach(model, adapter, self._names[expert], source.folder, self.device)
        self._adapters_of_rows: list[str] = []
        self._model = _mixing(model, self._adapters_of_rows) if source.adapters else model
        self._model.eval()
        log.info("loaded %s on %s (%s)", source.folder, self.device, str(model.dtype).removeprefix("torch."))

    def forward(
        self,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: DynamicCache,
        adapters: Sequence[str],
    ) -> torch.Tensor:
        """See `generation.Forward`."""
        self._adapters_of_rows[:] = adapters
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def decode(self, tokens: Sequence[int]) -> str:
        """Token ids to text, without special tokens."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def text(self, tokens: Sequence[int]) -> str:
        """A whole reply as text, without a character that was cut off in the middle."""
        return self.decode(tokens).rstrip(CUT_OFF)

    def text_stream(self) -> TextStream:
        """For a reply whose text is wanted as it comes."""
        return TextStream(self.decode)

    def row(self, request: Request) -> Row:
        """`request` as tokens, with its limits and grammar.

        Raises:
            BackendRequestError: messages that the chat template refuses, images, or an unusable form or setting.
            PromptTooLongError: prompt and reply do not fit into the context window.
        """
        if request.max_tokens < 1:
            raise BackendRequestError(f"max_tokens must be at least 1, got {request.max_tokens}.", status=400)
        if not 0 <= request.temperature < float("inf"):
            raise BackendRequestError(f"temperature must be 0 or more, got {request.temperature}.", status=400)
        prompt = self._prompt(request)
        form = request.pattern if request.schema is None else request.schema
        if len(prompt) + request.max_tokens > self.window:
            raise PromptTooLongError(
                f"The model's context window is {self.window} tokens; the prompt has {len(prompt)} and the reply may "
                f"take {request.max_tokens}. Shorten the messages or lower max_tokens.",
                status=400,
            )
        return Row(
            prompt=prompt,
            adapter=self._names.get(request.expert, _BASE),
            max_tokens=request.max_tokens,
            stops=self.stops,
            temperature=request.temperature,
            matcher=None if form is None else self._grammars.matcher(form),
            logprobs=[] if request.logprobs else None,
        )

    def _prompt(self, request: Request) -> list[int]:
        return prompt_tokens(self._tokenizer, request.messages, self._folder)


def prompt_tokens(tokenizer: Any, messages: Sequence[ChatMessage], folder: Path) -> list[int]:
    """A chat as the model in `folder` reads it before it replies; training and serving both come here.

    Raises:
        BackendRequestError: images, or messages that the chat template refuses.
    """
    plain = [{**message, "content": _plain(message.get("content"))} for message in messages]
    try:
        text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # templates run whatever their author wrote, and raise as they please
        raise BackendRequestError(
            f"The chat template of {folder} refuses these messages: {error}", status=400
        ) from error
    tokens: list[int] = tokenizer.encode(clean_text(text), add_special_tokens=False)
    if not tokens:
        raise BackendRequestError("The chat template made an empty prompt of these messages.", status=400)
    return tokens


def _attach(model: Any, adapter: Adapter, name: str, base: Path, device: torch.device) -> Any:
    """The model with one more adapter. `name` must not be the expert's: peft breaks on one called `update`."""
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    check_base(adapter, base)
    folder = str(adapter.folder)
    try:
        if not isinstance(model, PeftModel):
            config = PeftConfig.from_pretrained(folder)
            config.inference_mode = True
            model = PeftModel(model, config, adapter_name=name, autocast_adapter_dtype=False)
        result = model.load_adapter(folder, name, torch_device=str(device), autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise AdapterInvalidError(f"The adapter in {folder} does not fit the model in {base}: {error}") from error
    if wrong := [*result.missing_keys, *result.unexpected_keys]:
        raise AdapterInvalidError(
            f"The adapter in {folder} does not fit the model in {base}: {len(wrong)} weights have no counterpart, "
            f"such as {wrong[0]}."
        )
    return model


def _mixing(model: Any, adapters_of_rows: list[str]) -> Any:
    """The model inside peft's, which from now on uses for each row of a batch the adapter named in the list.

    Calling peft's own `forward(adapter_names=…)` hooks every layer anew in each step, which takes longer than the step
    of a small model, and leaves the hooks behind when a step fails. These are the same hooks, set once.
    """
    from peft.tuners.lora import LoraLayer

    def name_adapters(layer: Any, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**named, "adapter_names": adapters_of_rows}

    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.register_forward_pre_hook(name_adapters, with_kwargs=True)
    return model.get_base_model()


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn whatever transformers raises about a folder into our errors, and keep its progress bars off the terminal."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    noise: Any = logging  # its functions have no types
    shown = noise.is_progress_bar_enabled()
    noise.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, SettingsError):
            raise
        raise BackendUnavailableError(f"The model in {folder} cannot be loaded: {error}") from error
    except (RuntimeError, MemoryError) as error:  # weights of a wrong shape, or no memory left
        raise BackendUnavailableError(f"The model in {folder} cannot be loaded: {error}") from error
    finally:
        if shown:
            noise.enable_progress_bar()


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Raises SettingsError where the tokenizer cannot write prompts or guide replies."""
    if not tokenizer.is_fast:
        raise SettingsError(f"{folder} has no fast tokenizer (tokenizer.json), which structured replies need.")
    if not tokenizer.chat_template:
        raise SettingsError(
            f"The tokenizer in {folder} has no chat template: use the instruction-tuned variant of the model, or save "
            "a chat_template.jinja next to its tokenizer."
        )


def keeps_keys(model: Any) -> bool:
    """Whether all layers have keys and values, so that replies can be extended a token at a time here."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return not getattr(model, "_is_stateful", False) and kinds <= _CACHED_ATTENTION


def _check_attention(model: Any, folder: Path) -> None:
    if not keeps_keys(model):
        raise SettingsError(f"The model in {folder} has layers without keys and values; run it with `memlora serve`.")


def _plain(content: object) -> str:
    """A message's content as text; parts are joined by line breaks."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    parts = content if isinstance(content, Sequence) else [content]
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BackendRequestError(
                f"A model in process reads text only, not {kind!r} parts. Serve a vision model with vLLM.", status=400
            )
        texts.append(part["text"])
    return "\n".join(texts)


def window(model: Any, tokenizer: Any) -> int:
    """Positions the model has, in tokens."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(positions or tokenizer.model_max_length, tokenizer.model_max_length))


def stops(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end a reply; the tokenizer's own comes first."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    more = configured if isinstance(configured, (list, tuple)) else [configured]
    stops = tuple(dict.fromkeys(token for token in (tokenizer.eos_token_id, *more) if token is not None))
    if not stops:
        raise SettingsError("The model names no token that ends a reply; set eos_token in its tokenizer_config.json.")
    return stops


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"Device {name!r} cannot be used here: {reason} Use device='auto' or 'cpu'.") from error
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise SettingsError(f"dtype must be 'auto', 'float32', 'bfloat16' or 'float16', got {name!r}.")
    return dtype


def limit_threads(threads: int | None) -> None:
    """Give torch `threads`; None is 1 on small machines and torch's own choice elsewhere. Holds for the process."""
    import torch

    if threads is not None or _cores() <= _SMALL_MACHINE:
        torch.set_num_threads(threads or 1)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
