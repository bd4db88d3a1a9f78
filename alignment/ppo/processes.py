"""The processes that share a run, and what they say to each other; with one process all of this is trivial.

Every process holds the whole of an iteration's answers and works on its share of the rows. Results are put together
on all of them, so that what follows is the same everywhere and does not depend on how many there are.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from alignment.console import notes
from alignment.errors import AlignmentError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # how long one process waits for another before it gives up
BUCKET = 1 << 25  # gradients summed at once, in numbers


class StoppedByAnother(AlignmentError):
    """Another process failed and has said why: there is nothing more to say."""


@contextmanager
def together() -> Iterator[None]:
    """Join the processes that torchrun or `accelerate launch` started, if any, for as long as the block lasts.

    Only the main one talks. An error in one ends all, and only the first to fail says why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(store=store, rank=rank, world_size=size, timeout=PATIENCE)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends all at once: they cannot agree on a moment
    notes.quiet = not is_main()
    try:
        refuse_foreign_sharding()
        yield
    except Exception as error:
        if not first_to_fail(store):
            raise StoppedByAnother from error
        notes.quiet = False
        if lost_another(error):
            raise AlignmentError(
                "another process ended without a word (killed for want of memory?) or did nothing for "
                f"{PATIENCE.seconds // 60} minutes: see the launcher's report, mend the cause, and use --resume"
            ) from error
        raise
    dist.destroy_process_group()


def refuse_foreign_sharding() -> None:
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true"):
            raise AlignmentError(
                f"align ppo splits weights itself: launch it without accelerate's {name}, and set shard=true"
            )


def first_to_fail(store: dist.Store) -> bool:
    try:
        return store.add("align/failed", 1) == 1
    except RuntimeError:  # the store went with the process that held it
        return False


def lost_another(error: Exception) -> bool:
    """Whether a process waited in vain for another (gloo has no error class of its own)."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def is_main() -> bool:
    """Whether this process is the one that writes and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def from_main(value: T) -> T:
    """What `value` is on the main process."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def share(lengths: Tensor) -> Tensor:
    """The rows that are this process's to work on. lengths: tokens of each row, (b,) -> (b / world size, rounded up).

    Dealt out by length, there and back, so that all have about as many tokens, and exactly as many rows, since
    processes that split their weights must take every step together: some rows are dealt twice if they do not
    go round.
    """
    if world_size() == 1:
        return torch.arange(len(lengths))
    places = torch.arange(len(lengths) + -len(lengths) % world_size()) % len(lengths)
    hands = torch.argsort(lengths, stable=True)[places].view(-1, world_size())
    hands[1::2] = hands[1::2].flip(1)
    return hands[:, dist.get_rank()]


def in_shares(work: Callable[[list[int]], list[T]], lengths: Tensor) -> list[T]:
    """What `work` makes of all rows, in order and on every process, each doing its share of them.

    What one process raises is raised on all.
    """
    mine = share(lengths).tolist()
    if world_size() == 1:
        return work(mine)
    failures: list[Exception | None] = [None] * world_size()
    parts: list[dict[int, T]] = [{}] * world_size()
    done, failure = dict[int, T](), None
    try:
        done = dict(zip(mine, work(mine), strict=True))
    except Exception as error:
        failure = error if survives_pickling(error) else RuntimeError(f"{type(error).__name__}: {error}")
    dist.all_gather_object(failures, failure)
    for each in filter(None, failures):
        raise each
    dist.all_gather_object(parts, done)
    whole = {row: result for part in parts for row, result in part.items()}
    return [whole[row] for row in range(len(lengths))]


def survives_pickling(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  its own bytes
    except Exception:
        return False
    return True


def all_reduce(*tensors: Tensor) -> None:
    """Each tensor becomes its sum over all processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def fill_in(mine: Tensor, *tensors: Tensor) -> None:
    """Tensors (b, ...) of which each process has filled the rows in its share become whole on all, in place."""
    if world_size() > 1:
        times = torch.zeros(len(tensors[0]))
        times[mine] = 1
        all_reduce(times, *tensors)
        for tensor in tensors:
            tensor.div_(times.view(-1, *[1] * (tensor.ndim - 1)))


def all_reduce_figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Each figure summed over all processes."""
    totals = torch.tensor(list(sums.values()), dtype=torch.float64)
    all_reduce(totals)
    return dict(zip(sums, totals.tolist(), strict=True))


def all_reduce_max(value: float) -> float:
    most = torch.tensor(value, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return float(most)


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Each parameter's gradient becomes its sum over all processes; a missing one counts as zero.

    In buckets and in fp32: few messages, little memory beside the gradients, no rounding in between.
    """
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):  # split over the processes: its gradient has been summed already
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if bucket and sum(map(Tensor.numel, bucket)) + parameter.numel() > BUCKET:
            all_reduce_bucket(bucket)
            bucket = []
        bucket.append(parameter.grad)
    if bucket:
        all_reduce_bucket(bucket)


def all_reduce_bucket(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.flatten().float() for tensor in tensors])
    all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))
