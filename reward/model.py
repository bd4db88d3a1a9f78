"""The reward model itself: a sequence classifier with one output, its pad token, its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reward.errors import RewardError
from reward.members import FIRST, classifier, member_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCORE = "score.weight"


def from_base(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    quantization_config: Any = None,
) -> PreTrainedModel:
    """A language model with its head replaced by a fresh score head: no bias, std 1 / sqrt(d + 1).

    Gives `tokenizer` (in place) and the model a pad token that marks the end of a conversation rightly,
    see `separate_pad_token`. The head's size of start is that of Stiennon et al. 2020.
    """
    model, _ = _load(path, dtype=dtype, quantization_config=quantization_config)
    draw_head(model.score.weight, seed)
    separate_pad_token(tokenizer)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def draw_head(head: torch.Tensor, seed: int) -> None:
    """Fill a score head's weight (1, d), in place, with numbers of standard deviation 1 / sqrt(d + 1)."""
    fresh = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        head.copy_(fresh / (head.shape[1] + 1) ** 0.5)


def add_member(model: Any, number: int, seed: int) -> None:
    """A further member of `model`, shaped as the first, with an adapter and a score head drawn from `seed`; it is the
    one that trains."""
    name = f"member-{number}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(name, model.peft_config[FIRST])
    draw_head(classifier(model).score.modules_to_save[name].weight, seed)
    model.set_adapter(name)


def separate_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give `tokenizer` a pad token that no conversation ends with, keeping its own where that holds.

    Transformers scores the rightmost token that is not the pad token, whatever the attention mask says.
    With pad equal to EOS that is the token before EOS, or one in an earlier turn. Any other token does:
    pads are never attended to.
    """
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    last = tokenizer.apply_chat_template(probe, tokenize=True, return_dict=False)[-1]
    taken = {last, tokenizer.eos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return
    # an ordinary token would be cut out of texts once it is declared special
    special = {
        i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special and i not in taken
    }
    if not special:
        raise RewardError(
            "the tokenizer has no special token but EOS to pad with: add a pad token to the base model"
        )
    tokenizer.pad_token = min(special.values(), key=lambda text: ("pad" not in text, "reserved" not in text))


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model or adapter folder with its tokenizer, and read it back: raises RewardError if the
    score head or any adapter did not arrive on disk as it is in memory."""
    from peft import PeftModel, get_peft_model_state_dict

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in member_names(model):
        adapted = isinstance(model, PeftModel)
        held = get_peft_model_state_dict(model, adapter_name=name) if adapted else {SCORE: model.score.weight}
        check_saved(held, folder if name == FIRST else folder / name)


def check_saved(held: Mapping[str, torch.Tensor], folder: Path) -> None:
    saved = read_tensors(folder, lambda name: name in held)
    wrong = [
        name
        for name, weight in held.items()
        if name not in saved or not saved[name].equal(weight.detach().cpu())
    ]
    if wrong or not any(name.endswith(SCORE) for name in saved):
        raise RewardError(f"{folder} was not saved whole ({(wrong or [SCORE])[0]} differs): do not use it")


def load(folder: str, *, dtype: torch.dtype) -> PreTrainedModel:
    """The reward model in `folder`, whole or as an adapter on its base, with its further members, in eval mode.

    Raises RewardError if there is none, if it has several outputs, or if its score head was not saved.
    """
    adapter = Path(folder) / "adapter_config.json"
    if not adapter.exists():
        model, missing = _load(folder, dtype=dtype)
        if any(name.endswith(SCORE) for name in missing):
            raise RewardError(f"{folder} holds no score head: give a reward model, not a policy")
        return model.eval()
    from peft import PeftModel

    if not read_tensors(Path(folder), lambda name: name.endswith(SCORE)):
        raise RewardError(f"{folder} holds no score head: give a reward model's adapter, not a policy's")
    base, _ = _load(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"], dtype=dtype)
    model = PeftModel.from_pretrained(base, folder)
    for place in sorted(Path(folder).glob("*/adapter_config.json")):
        model.load_adapter(str(place.parent), adapter_name=place.parent.name)
    return model.eval()


def read_tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """The tensors of a folder's safetensors files whose names are wanted."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found.update({name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)})  # noqa: SIM118
    return found


def _load(path: str, **kwargs: Any) -> tuple[PreTrainedModel, set[str]]:
    """A sequence classifier with one output, and the names of the weights that `path` did not have."""
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=1,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **{k: v for k, v in kwargs.items() if v is not None},
        )
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RewardError(f"cannot load {path} as a reward model: {first}") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatched" not in str(error):
            raise
        raise RewardError(f"{path} does not have one score for output: it is no reward model") from error
    return model, set(info["missing_keys"])
