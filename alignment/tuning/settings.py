"""PEFT's settings for each method. Dropout is 0 throughout: a policy must equal itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alignment.errors import AlignmentError
from alignment.tuning.config import TuningConfig
from alignment.tuning.places import (
    INNER,
    attention_output,
    base_modules,
    feed_forward,
    in_last_layers,
    linear,
    linear_layers,
    named,
    norm,
    places,
)

if TYPE_CHECKING:
    import torch

ADALORA_STEPS = 10  # until training says how many there are


def peft_settings(tuning: TuningConfig, model: torch.nn.Module, common: dict[str, Any]) -> Any:
    """PEFT's config for `tuning` of `model`, given what all have in `common`.

    Raises AlignmentError where the model has no place for the method.
    """
    if tuning.spec.prompt:
        return prompt_settings(tuning, common)
    if tuning.method in ("houlsby", "pfeiffer", "unipelt"):
        return bottleneck_settings(tuning, model, common)
    if tuning.method in ("ia3", "bitfit", "layernorm"):
        return vector_settings(tuning, model, common)
    if tuning.method in ("vera", "loha", "lokr", "oft", "boft", "hra"):
        return matrix_settings(tuning, model, common)
    return lora_settings(tuning, model, common)


def lora_settings(tuning: TuningConfig, model: torch.nn.Module, common: dict[str, Any]) -> Any:
    from peft import AdaLoraConfig, LoraConfig

    settings = common | {
        "lora_alpha": tuning.alpha,
        "lora_dropout": 0.0,
        "target_modules": linear_layers(tuning, model),
    }
    match tuning.method:
        case "adalora":
            return AdaLoraConfig(
                target_r=tuning.rank, init_r=-(-3 * tuning.rank // 2), total_step=ADALORA_STEPS, **settings
            )
        case "pissa":  # what is learned and what it started from, see `alignment.tuning.pissa`
            return LoraConfig(**settings | {"r": 2 * tuning.rank, "lora_alpha": 2 * tuning.alpha})
        case "moe":
            return LoraConfig(r=tuning.rank, target_parameters=expert_weights(tuning, model), **settings)
        case method:
            return LoraConfig(
                r=tuning.rank, use_dora=method == "dora", use_rslora=method == "rslora", **settings
            )


def expert_weights(tuning: TuningConfig, model: torch.nn.Module) -> list[str]:
    """Names of the experts' stacked weights and of the routers' that are no linear layers."""
    modules = base_modules(model)
    names = [
        name.replace(".base_layer", "")  # of a model that has an adapter already
        for name, weight in model.named_parameters()
        if ".experts." in name and weight.ndim == 3
    ]
    homes = {name.partition(".experts.")[0] for name in names}
    routers = [f"{home}.gate" for home in sorted(homes) if f"{home}.gate" in modules]
    names += [f"{router}.weight" for router in routers if not linear(router, modules[router])]
    if not names:
        raise AlignmentError(
            "tuning.method=moe needs a mixture of experts, and this model has no experts: use tuning.method=lora"
        )
    return in_last_layers(tuning, names, list(modules))


def matrix_settings(tuning: TuningConfig, model: torch.nn.Module, common: dict[str, Any]) -> Any:
    from peft import BOFTConfig, HRAConfig, LoHaConfig, LoKrConfig, OFTConfig, VeraConfig

    settings = common | {"target_modules": linear_layers(tuning, model)}
    match tuning.method:
        case "vera":
            return VeraConfig(r=tuning.rank, vera_dropout=0.0, **settings)
        case "loha":
            return LoHaConfig(r=tuning.rank, alpha=tuning.alpha, **settings)
        case "lokr":
            return LoKrConfig(r=tuning.rank, alpha=tuning.alpha, **settings)
        case "oft":
            return OFTConfig(r=0, oft_block_size=tuning.rank, **settings)
        case "boft":
            return BOFTConfig(boft_block_size=tuning.rank, boft_dropout=0.0, **settings)
        case _:
            return HRAConfig(r=tuning.rank, **settings)


def vector_settings(tuning: TuningConfig, model: torch.nn.Module, common: dict[str, Any]) -> Any:
    from peft import BeftConfig, LNTuningConfig

    if tuning.method == "layernorm":
        return LNTuningConfig(target_modules=places(tuning, model, norm, "norm layers"), **common)
    if tuning.method == "bitfit":
        return BeftConfig(target_modules=places(tuning, model, linear, "linear layers"), **common)
    return ia3_settings(tuning, model, common)


def ia3_settings(tuning: TuningConfig, model: torch.nn.Module, common: dict[str, Any]) -> Any:
    from peft import IA3Config

    chosen = places(tuning, model, named("k_proj", "v_proj", *INNER), "layers named k_proj and v_proj")
    inner = [name for name in chosen if named(*INNER)(name, None)]
    return IA3Config(target_modules=chosen, feedforward_modules=inner, **common)


def bottleneck_settings(tuning: TuningConfig, model: Any, common: dict[str, Any]) -> Any:
    from alignment.tuning.bottleneck import BottleneckConfig

    text = model.config.get_text_config()
    ends = attention_output, "attention outputs named o_proj or the like"
    after = places(tuning, model, feed_forward, "feed-forward blocks named mlp or the like")
    if tuning.method == "houlsby" and tuning.target_modules is None:
        after += places(tuning, model, *ends)
    parts: dict[str, Any] = {}
    if tuning.method == "unipelt":
        queries = named("q_proj", "v_proj")
        parts = {
            "low_rank_modules": places(tuning, model, queries, "layers named q_proj and v_proj"),
            "prefix_modules": places(tuning, model, *ends),
            "head_size": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            "gated": True,
        }
    return BottleneckConfig(
        target_modules=after,
        hidden_size=text.hidden_size,
        width=tuning.rank,
        scale=tuning.alpha / tuning.rank,
        **parts,
        **common,
    )


def prompt_settings(tuning: TuningConfig, common: dict[str, Any]) -> Any:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    settings = {"task_type": common["task_type"], "num_virtual_tokens": tuning.rank}
    match tuning.method:
        case "prompt":
            # tokens of the vocabulary: PEFT's own start is many times as large as embeddings are
            return PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **settings)
        case "p_tuning":
            return PromptEncoderConfig(encoder_dropout=0.0, **settings)
        case method:
            return PrefixTuningConfig(prefix_projection=method == "prefix", **settings)
