"""A new small chat model: a byte-level BPE tokenizer trained on the texts at hand and a fresh Llama."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from alignment.config import Section
from alignment.files import whole_folder

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class ScratchConfig(Section):
    """The shape of a model that starts from nothing. The default is the demo's, about 2M parameters."""

    hidden_size: int = Field(192, ge=8, description="width of the residual stream")
    layers: int = Field(4, ge=1, description="transformer blocks")
    heads: int = Field(6, ge=1, description="attention heads; must divide hidden_size")
    kv_heads: int = Field(2, ge=1, description="key and value heads; must divide heads")
    intermediate_size: int = Field(512, ge=8, description="width of the gated MLP")
    vocab_size: int = Field(
        800, ge=264, description="largest vocabulary; 256 bytes and 5 special tokens included"
    )
    max_length: int = Field(256, ge=8, description="context, in tokens")

    @model_validator(mode="after")
    def heads_fit(self) -> ScratchConfig:
        if self.hidden_size % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError("heads must divide hidden_size into even parts, and kv_heads must divide heads")
        return self


def new_model(config: ScratchConfig, texts: Iterable[str], folder: Path, seed: int = 0) -> None:
    """Writes a model folder with random weights, a tokenizer trained on `texts` and a chat template."""
    import torch
    from transformers import LlamaForCausalLM

    tokenizer = train_tokenizer(texts, config.vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(config, tokenizer))
    with whole_folder(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, and what is frequent in `texts` takes few tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, chat_template=CHAT_TEMPLATE
    )


def llama_config(config: ScratchConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        max_position_embeddings=config.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
