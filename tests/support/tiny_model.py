"""A random-weight Qwen2 of half a million parameters and three LoRA experts over it, made in about two seconds.

It answers nonsense: it stands in for a real student wherever the wiring is what is tested. The weights are larger
than a usual initialisation, so that greedy replies depend on the prompt and differ between adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ADAPTER_MODULES: Mapping[str, tuple[str, ...]] = {
    "extraction": ("q_proj", "v_proj"),
    "update": ("q_proj", "v_proj"),
    "generation": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
MAX_LENGTH = 4096
"""Positions of the model, in tokens."""

_SAMPLE = [
    "I moved to Lisbon in May and I work as a nurse at the hospital.",
    "Ana's sister Maria has two cats and likes to paint landscapes on weekends.",
    'Previous memories: 0: "likes tea" 1: "lives in Porto". New facts: "moved to Lisbon".',
    '{"facts": ["moved to Lisbon", "works as a nurse"]}',
    '{"memory": [{"id": "0", "text": "lives in Lisbon", "event": "UPDATE", "old_memory": "lives in Porto"}]}',
    "ADD UPDATE DELETE NONE user assistant system question answer memory date speaker",
]
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """Folder of the base model, and of each expert's adapter."""

    path: Path
    adapters: dict[str, Path] = field(default_factory=dict)


def make_tiny_model(folder: Path, *, seed: int = 7) -> TinyModel:
    """Write the base under `folder/base` and the experts under `folder/<expert>`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    base = folder / "base"
    tokenizer = _make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    adapters = {
        name: make_adapter(base, folder / name, modules=modules, seed=seed + place)
        for place, (name, modules) in enumerate(ADAPTER_MODULES.items(), start=1)
    }
    return TinyModel(base, adapters)


def make_adapter(
    base: Path, folder: Path, *, modules: Sequence[str] = ("q_proj", "v_proj"), rank: int = 8, seed: int = 1
) -> Path:
    """Write a random LoRA adapter for the model in `base` to `folder`, with a B that is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(modules), task_type="CAUSAL_LM")
    model = get_peft_model(Qwen2ForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    return folder


def _make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SAMPLE, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=MAX_LENGTH
    )
    fast.chat_template = _TEMPLATE
    return fast
