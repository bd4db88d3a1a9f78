"""Loading models and tokenizers from the hub, a local folder or a run, with the checks that save an evening."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from alignment.config import Section
from alignment.errors import AlignmentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class ModelConfig(Section):
    """Which model to start from and how its weights are held."""

    path: str = Field(description="a hub id, a model folder, an adapter folder or a run folder")
    dtype: Dtype = Field(
        "auto",
        description="auto: bfloat16 on a GPU, float32 on the CPU; PPO with adapters takes bfloat16 also on a CPU that "
        "computes in it",
    )


def resolve(path: str) -> str:
    """A run folder stands for the model in it; hub ids and model folders pass through."""
    folder = Path(path).expanduser()
    if not folder.exists():
        if (
            path.startswith((".", "/", "~"))
            or path.count("/") > 1
            or path.split("/", maxsplit=1)[0] == "runs"
        ):
            raise AlignmentError(f"no model at {path}: train it first or correct the path")
        return path
    if (folder / "model").is_dir():
        return str(folder / "model")
    if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
        raise AlignmentError(f"{path} holds no model (neither config.json nor adapter_config.json is in it)")
    return str(folder)


def is_adapter(path: str) -> bool:
    return (Path(path) / "adapter_config.json").exists()


def base_of(path: str) -> str:
    """The base model under an adapter folder; the folder itself if it holds a whole model."""
    if not is_adapter(path):
        return path
    settings = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if not base:
        raise AlignmentError(f"{path}/adapter_config.json does not name its base model")
    return str(base)


def weights_stamp(path: str) -> list[Any]:
    """What tells a model, as JSON, from another or from itself trained on: where it is, and the sizes and times of its
    files of weights, its base's too. A model on the hub is known by its name."""
    path = resolve(path)
    files = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for folder in dict.fromkeys((path, base_of(path)))
        for file in sorted(Path(folder).glob("*.safetensors"))
    ]
    return [path, files]


def torch_dtype(dtype: Dtype) -> torch.dtype:
    import torch

    if dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def frozen_dtype(dtype: Dtype) -> Dtype:
    """What "auto" means for a base that only computes, under adapters that learn in float32: bfloat16 wherever the
    processor has instructions for it."""
    import torch

    able = torch.cuda.is_available() or torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if dtype == "auto" and able else dtype


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model or adapter folder, padding on the right, with a chat template and a pad token.

    A missing pad token becomes the EOS token: masks here come from lengths, so the two may be equal.
    """
    from transformers import AutoTokenizer

    path = resolve(path)
    tokenizer = from_pretrained(AutoTokenizer, path, padding_side="right")
    if tokenizer.chat_template is None:
        raise AlignmentError(
            f"the tokenizer of {path} has no chat template: start from an instruction-tuned model, "
            "or save a chat_template.jinja beside it"
        )
    if tokenizer.eos_token_id is None:
        raise AlignmentError(f"the tokenizer of {path} has no EOS token, so no answer could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    path: str,
    dtype: Dtype = "auto",
    *,
    four_bit: bool = False,
    eight_bit: bool = False,
    trainable: bool = False,
) -> PreTrainedModel:
    """A causal language model, adapters (if `path` holds some) merged into nothing: they stay adapters.

    Returns a PreTrainedModel, or a PeftModel when `path` is an adapter folder, in eval mode.
    """
    from transformers import AutoModelForCausalLM

    path = resolve(path)
    base = base_of(path)
    refuse_reward_model(path)
    refuse_reward_model(base)
    kwargs: dict[str, Any] = {"dtype": torch_dtype(dtype)}
    if four_bit or eight_bit:
        kwargs["quantization_config"] = packed_config(4 if four_bit else 8)
    model = from_pretrained(AutoModelForCausalLM, base, **kwargs)
    if four_bit:
        keep_trainable_on_cpu(model)
    if is_adapter(path):
        from peft import PeftModel

        know_adapter(path, trainable=trainable)
        model = PeftModel.from_pretrained(model, path, is_trainable=trainable)
    return model.eval()


def refuse_reward_model(path: str) -> None:
    """Raises AlignmentError if `path` is a classifier or an adapter of one."""
    kinds: list[str] = []
    for file, key in (("config.json", "architectures"), ("adapter_config.json", "task_type")):
        if (Path(path) / file).exists():
            found = json.loads((Path(path) / file).read_text(encoding="utf-8")).get(key) or []
            kinds += [found] if isinstance(found, str) else found
    if any("SequenceClassification" in kind or kind == "SEQ_CLS" for kind in kinds):
        raise AlignmentError(
            f"{path} is a reward model ({', '.join(kinds)}): give a policy (a causal language model)"
        )


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends an answer: the generation config's (chat models have several) and the tokenizer's EOS."""
    ids = model.generation_config.eos_token_id if model.generation_config else None
    several = ids if isinstance(ids, list) else [ids]
    return tuple(sorted({i for i in (*several, tokenizer.eos_token_id) if i is not None}))


def context_length(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "max_position_embeddings", 1 << 30))


def four_bit_config() -> Any:
    """NF4 with double quantization: QLoRA's setting (Dettmers et al. 2023)."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def packed_config(bits: int | None) -> Any:
    """How to load a base in `bits` (4 or 8) a weight; None for None."""
    from transformers import BitsAndBytesConfig

    if bits is None:
        return None
    return four_bit_config() if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)


def know_adapter(path: str, *, trainable: bool = False) -> None:
    """Let PEFT load the adapter in folder `path` if its method is one of ours.

    Raises AlignmentError if it is to be `trainable` and what made its prompt was not kept.
    """
    settings = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    if settings.get("peft_type") == "BOTTLENECK":
        import alignment.tuning.bottleneck  # noqa: F401  registers it
    made = settings.get("peft_type") == "P_TUNING" or settings.get("prefix_projection")
    if trainable and made:
        raise AlignmentError(
            f"{path} holds a prompt without the network that made it, so it cannot be trained on: start from the base"
        )


def keep_trainable_on_cpu(model: PreTrainedModel) -> None:
    """bitsandbytes repacks 4-bit layers on AVX512-BF16 CPUs at the first forward; gradients are wrong after that."""
    import bitsandbytes

    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def from_pretrained(kind: Any, path: str, **kwargs: Any) -> Any:
    """`from_pretrained` with one readable line when there is nothing to load. safetensors only."""
    if kind.__name__.startswith("AutoModel"):
        kwargs["use_safetensors"] = True
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **kwargs)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AlignmentError(f"cannot load {path}: {first}") from error
