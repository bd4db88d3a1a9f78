"""`align serve`."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model, adapter or run folder.")],
    vllm_arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="Passed on to vLLM.", show_default=False),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", metavar="NAME=PATH", help="A LoRA policy on the same base; may be repeated."
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Where it listens.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 to be reached from elsewhere.")] = "127.0.0.1",
    max_model_len: Annotated[
        int | None, typer.Option("--max-model-len", min=1, help="Longest conversation, in tokens.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="NAME", help="The variable with the key that callers must send."
        ),
    ] = None,
    for_training: Annotated[
        bool, typer.Option("--for-training", help="Let `align ppo` roll out on it and change its policy.")
    ] = False,
    lora_rank: Annotated[
        int,
        typer.Option(
            "--lora-rank",
            min=0,
            help="With --for-training: the largest tuning.rank; 0 for whole weights (tuning.method=full).",
        ),
    ] = 16,
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="--for-training also on a --host that other machines reach."),
    ] = False,
) -> None:
    """Serve a model on vLLM, OpenAI-compatible, until Ctrl-C: for the judge, rollouts, live pairs, PPO.

    A base, policies on it by name, or a reward model.

    Example: [bold]align serve Qwen/Qwen3-0.6B --adapter tuned=runs/ppo --max-model-len 4096[/bold]

    For PPO: [bold]align serve runs/sft --for-training --port 8001[/bold]
    """
    from alignment.serving import serve as serve_model

    serve_model(
        model,
        adapter or [],
        host=host,
        port=port,
        max_model_len=max_model_len,
        api_key_env=api_key_env,
        training_rank=lora_rank if for_training else None,
        allow_remote=allow_remote,
        extra=vllm_arguments or [],
    )
