"""nano's base before its training: a small Qwen2 with random weights, and its own tokenizer."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

VOCABULARY = 4096
WINDOW = 4096
"""Positions of the model, in tokens."""
_SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_ROPE_THETA = 1e6
_EMBEDDING_STD = 0.2
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: Iterable[str], folder: Path) -> Any:
    """Train a byte-level BPE on `texts` and save it to `folder`.

    A quotation mark is never in one token with what stands before it, since what is copied may end there; numbers are
    cut into pairs of digits, as dates are made of them.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = r"""'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}"]+| ?"[^\s\p{L}\p{N}]*|\s+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    make: Any = PreTrainedTokenizerFast  # untyped
    fast = make(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    return fast


def new_model(tokenizer: Any, folder: Path, *, seed: int) -> None:
    """Save a model with random weights for `tokenizer` to `folder`, one that can copy from the beginning.

    Facts and answers are mostly words of the prompt, so copying is what has to be learned first, and a small model
    with random weights had not learned it after 1,750 steps of 12 samples. This one begins with the circuit that it
    would end up with (an *induction head*, Olsson et al. 2022): a head of the first layer looks one token back, and a
    head of the second finds where the present token stood before and copies what came after it there.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    shape: dict[str, Any] = {**_SHAPE}
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=WINDOW,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        dtype="float32",
        **shape,
    )
    model: Any = Qwen2ForCausalLM(config)
    with torch.no_grad():
        _wire_induction(model)
    model.save_pretrained(folder)


def _wire_induction(model: Any) -> None:
    """Set head 0 of the layers 0 and 1, and embeddings large enough that Adam's steps do not drown them."""
    import torch

    width = model.config.hidden_size
    head = width // model.config.num_attention_heads
    pairs = head // 2  # rotary position embeddings turn pairs of dimensions, each at its own frequency
    frequencies = _ROPE_THETA ** (-torch.arange(pairs) / pairs)

    def orthonormal(rows: int, columns: int) -> Any:
        return torch.linalg.qr(torch.randn(rows, columns))[0]

    read, mark, copied = orthonormal(width, head).T, orthonormal(width, head), orthonormal(width, head).T
    embeddings = model.model.embed_tokens.weight
    embeddings.mul_(_EMBEDDING_STD / embeddings.std())
    model.lm_head.weight.copy_(embeddings)  # what is copied is said

    back = model.model.layers[0].self_attn  # attends by position alone: its keys and queries are constant
    here = torch.zeros(head)
    here[:8] = 7.0  # in the fastest pairs
    back.k_proj.weight[:head] = 0
    back.k_proj.bias[:head] = here
    for number in (0, 1):  # both share one key; the second looks two tokens back
        angles = -(number + 1) * frequencies
        rows = slice(number * head, (number + 1) * head)
        back.q_proj.weight[rows] = 0
        back.q_proj.bias[rows] = torch.cat([here[:pairs] * torch.cos(angles), here[:pairs] * torch.sin(angles)])
    back.v_proj.weight[:head] = read
    back.o_proj.weight[:, :head] = 2 * _EMBEDDING_STD * mark  # leaves the earlier token's mark
    back.o_proj.weight[:, head : 2 * head] *= 0.05

    match = model.model.layers[1].self_attn  # the present token's code against the marks, in pairs that hardly turn
    slow = torch.cat([frequencies, frequencies]) < 0.006
    match.k_proj.weight[:head] = 4 * slow[:, None] * mark.T
    match.q_proj.weight[:head] = 4 * slow[:, None] * read
    match.v_proj.weight[:head] = copied
    match.o_proj.weight[:, :head] = 8 * _EMBEDDING_STD * copied.T
    match.o_proj.weight[:, head : 2 * head] *= 0.05


def halve(trained: Path, out: Path) -> None:
    """Copy a model's or an adapter's folder with its weights in half precision, all or nothing."""
    import torch
    from safetensors.torch import load_file, save_file

    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(trained, draft)
    for file in draft.glob("*.safetensors"):
        weights = {name: weight.to(torch.float16).contiguous() for name, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    shutil.rmtree(out, ignore_errors=True)
    draft.replace(out)


def parameters(folder: Path) -> int:
    """How many numbers the safetensors of a folder hold."""
    from safetensors import safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count
