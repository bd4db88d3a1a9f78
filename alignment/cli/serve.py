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
) -> None:
    """Serve a model on vLLM, OpenAI-compatible, until Ctrl-C: for the judge, for rollouts, for live pairs.

    A base, policies on it by name, or a reward model.

    Example: [bold]align serve Qwen/Qwen3-0.6B --adapter tuned=runs/ppo --max-model-len 4096[/bold]
    """
    from alignment.serving import serve as serve_model

    serve_model(
        model,
        adapter or [],
        host=host,
        port=port,
        max_model_len=max_model_len,
        api_key_env=api_key_env,
        extra=vllm_arguments or [],
    )
