"""One full-batch run across the processes that torchrun started: each holds a shard of the training set.

At each step every process computes the outputs and the gradients of its shard, and one all-reduce gives all of them
the outputs and the gradients of the full set. So all take the same step, and process 0 measures every quantity as it
would in a run of one process. Only process 0 locks, writes and seals the run file, and prints.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rhotrace.errors import AlreadySaid, DeviceError, RecipeError, RhoTraceError
from rhotrace.models.network import Applied, Backward, Network

if TYPE_CHECKING:
    import torch

    from rhotrace.models.losses import Loss
    from rhotrace.models.network import Mode, Tensors
    from rhotrace.models.optimizers import State
    from rhotrace.recording.quantity import Quantity
    from rhotrace.training.stop_signal import StopRequest

# Time limits for an answer of the others. A dead process is noticed at once; these are for a machine that hangs.
_AT_A_STEP = datetime.timedelta(minutes=2)
_OTHERWISE = datetime.timedelta(minutes=30)  # one of them may be downloading the data, or reserving disk space
_STEPS_OF_A_GPU = 16  # between checks for a stop request, each of which waits for the GPU
_OF_SAMPLES = ("features", "hessian products", "sample gradients", "tangent kernel")  # beside the outputs
_ENDS = ("finished", "interrupted", "diverged")


class ProcessError(RhoTraceError):
    """Another process of the run ended, cannot be reached, or was started with something else to train."""


def several() -> bool:
    """Whether this process is one of several, by the environment variables that torchrun sets."""
    named = {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return named and os.environ.get("WORLD_SIZE", "1") not in {"0", "1"}


@contextlib.contextmanager
def team() -> Iterator[Team | None]:
    """The processes of this run, joined; None if this is the only one.

    If several processes fail, one raises its error and the others raise ``AlreadySaid``.

    Raises:
        ProcessError: the others cannot be reached.
    """
    if several():
        with Team() as joined:
            yield joined
    else:
        yield None


class Team:
    """The processes of one run, seen from one of them; a context manager.

    Attributes:
        rank: number of this process; 0 is the one that records.
        size: number of processes.
        requested: whether any of them was asked to stop; known in all of them at the same step.

    Raises:
        ProcessError: the others cannot be reached.
    """

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.requested = False
        self._failing = False
        self._stop: StopRequest | None = None
        self._look_every = 1
        self._reduced: torch.Tensor | None = None
        self._reductions = self._planned = 0
        # Everything outside the steps goes through gloo, which notices a lost process at once.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        with self._reaching():
            shared, *_ = next(rendezvous("env://", timeout=_OTHERWISE))
            # torchrun --max-restarts keeps the store, which still has the addresses of the previous attempt's processes.
            self._store = PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
            dist.init_process_group(
                backend, store=self._store, rank=self.rank, world_size=self.size, timeout=_OTHERWISE
            )
            self._steps: Any = dist.new_group(timeout=_AT_A_STEP)

    # --- leaving ------------------------------------------------------------------------------------------

    def __enter__(self) -> Team:
        self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def _terminate(self, number: int, _frame: object) -> None:
        """Ends the process, but not one that is failing: torchrun sends SIGTERM to the rest, and one must print why."""
        if not self._failing:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            import torch.distributed as dist

            signal.signal(signal.SIGTERM, self._before)
            dist.destroy_process_group()
        elif isinstance(error, RhoTraceError | OSError | MemoryError):
            # Connections stay open until the process ends, so that the others do not leave before the error is printed.
            self._failing = True
            if not self._is_first_to_fail():
                raise AlreadySaid from None

    def _is_first_to_fail(self) -> bool:
        try:
            return bool(self._store.add("rhotrace/failed", 1) == 1)
        except RuntimeError:  # the machine that counts is gone
            return True

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as problem:
            self._failing = True
            why = (
                re.sub(r"^\[\S+:\d+\] ", "", str(problem)).split(". ")[0].split("\n")[0][:200]
            )  # without torch's advice
            raise ProcessError(
                f"one of the {self.size} processes ended or cannot be reached ({why}); all committed steps are "
                "safe, and the same command resumes from there"
            ) from None

    # --- before the first step ----------------------------------------------------------------------------

    def shard(self, samples: int) -> slice:
        """The samples of this process; the sizes of two shards differ by one sample at most."""
        return slice(samples * self.rank // self.size, samples * (self.rank + 1) // self.size)

    @contextlib.contextmanager
    def one_first(self) -> Iterator[None]:
        """Lets one process of each machine go first, so that the others find what it has downloaded."""
        if self.local_rank:
            self._meet()
        yield
        if not self.local_rank:
            self._meet()

    def _meet(self) -> None:
        import torch
        import torch.distributed as dist

        with self._reaching():  # dist.barrier() may use a GPU, and one of another process
            dist.all_reduce(torch.zeros(1))

    def take_device(self, device: str) -> None:
        """Gives each process of a machine a GPU of its own.

        Raises:
            DeviceError: the machine has fewer GPUs than processes.
        """
        import torch

        if device == "cuda":
            there = torch.cuda.device_count()
            if self.local_rank >= there:
                raise DeviceError(
                    f"--device cuda: got {there} CUDA devices, expected one for each process of a machine; "
                    f"start {there} processes on it, or use --device cpu"
                )
            torch.cuda.set_device(self.local_rank)
            self._look_every = _STEPS_OF_A_GPU

    def refuse(self, batch_size: int | None, samples: int) -> None:
        """Raises RecipeError if a run cannot be divided among the processes."""
        if batch_size is not None:
            raise RecipeError(
                f"optimizer.batch_size: got {batch_size} and {self.size} processes, expected the full training set at "
                "each step (gd, or weight-norm without batch_size); train minibatches in one process"
            )
        if samples < self.size:
            raise RecipeError(
                f"data.train: got {samples} training samples, expected at least one for each of the {self.size} processes"
            )

    def refuse_needs(self, quantities: Iterable[Quantity]) -> None:
        """Raises RecipeError where a quantity needs more of the training set than its outputs, which alone are shared."""
        for quantity in quantities:
            lacking = [need for need in quantity.needs if need in _OF_SAMPLES]
            if lacking:
                raise RecipeError(
                    f"quantity {quantity.name}: needs {lacking[0]} on the whole training set, of which each of the "
                    f"{self.size} processes has a part; train it in one process"
                )

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compares the facts of all processes, and waits for all of them.

        Args:
            facts: text by name, such as the digest of the recipe.

        Raises:
            ProcessError: a fact differs between processes.
        """
        import torch
        import torch.distributed as dist

        digests = b"".join(hashlib.sha256(fact.encode()).digest() for fact in facts.values())
        own = torch.tensor(list(digests), dtype=torch.uint8).view(len(facts), -1)
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        with self._reaching():
            dist.all_gather(everyone, own)
        for rank, theirs in enumerate(everyone):
            other = [name for name, a, b in zip(facts, everyone[0], theirs, strict=True) if not a.equal(b)]
            if other:
                raise ProcessError(
                    f"process {rank} and process 0 differ in {', '.join(other)}; expected the same in all processes"
                )

    def start(self, state: State, steps: int, stop: StopRequest, first: int = 0) -> int:
        """Gives all processes the first step and the optimizer's state that process 0 found; returns that step."""
        import torch
        import torch.distributed as dist

        began = torch.tensor([first])
        with self._reaching():
            dist.broadcast(began, src=0)
            for tensors in state.values():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)
        self._stop, self._planned = stop, steps - int(began)
        return int(began)

    # --- the steps ----------------------------------------------------------------------------------------

    def shared(self, network: Network, samples: int) -> Network:
        """The network, whose ``gradients`` now take a shard and return outputs and gradients of all samples.

        Raises:
            RecipeError: the network treats the samples of a step together, as batch normalisation does.
        """
        if network.buffers:
            raise RecipeError(
                f"network.kind: this network keeps {network.buffers[0].name}, which depends on all samples of a step, "
                f"and the run has {self.size} processes; train it in one process"
            )
        return _Sharded(network, self, samples)

    def gather(self, backward: Backward, mine: slice, samples: int) -> Backward:
        """Outputs and gradients of all samples, from those of the shard ``mine`` in each process."""
        import torch

        outputs, own, _ = backward
        part = (mine.stop - mine.start) / samples
        spread = outputs.new_zeros((*outputs.shape[:2], samples))  # a sum with zeros is exact
        spread[..., mine] = outputs
        asked = outputs.new_full((1,), float(self._stop is not None and self._stop.requested))
        pieces = [spread, *(G * part for G in own), asked]  # mean over the shard -> its part of the whole mean
        flat = torch.cat([piece.reshape(-1) for piece in pieces])
        self._reduce(flat)
        parts = torch.split(flat, [piece.numel() for piece in pieces])
        whole, *sums = (part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True))
        return Backward(whole, tuple(sums[:-1]), ())

    def _reduce(self, flat: torch.Tensor) -> None:
        """Sums over the processes, in place; the last number is how many of them were asked to stop."""
        import torch.distributed as dist

        with self._reaching():
            dist.all_reduce(flat, group=self._steps)
            self._reduced = flat
            self._reductions += 1
            if self._reductions % self._look_every == 0:
                self.requested = self.requested or bool(flat[-1] > 0)

    def conclude(self, ended: str = "") -> str:
        """How training ended, as process 0 says; the others wait here until its last commit is done."""
        import torch
        import torch.distributed as dist

        code: Any = torch.tensor([_ENDS.index(ended) if ended else 0])
        try:
            if self.rank == 0:
                self._dismiss()
            with self._reaching():
                dist.broadcast(code, src=0)
        except ProcessError:
            if self.rank:
                raise  # process 0 has all that it needs to end the run well
        return _ENDS[int(code)]

    def _dismiss(self) -> None:
        """Stops the others if process 0 ended training itself, as it does when no member is finite."""
        while self._reduced is not None and not self.requested and self._reductions < self._planned:
            last_word = self._reduced.new_zeros(self._reduced.shape)
            last_word[-1] = 1
            self._reduce(last_word)


class _Sharded(Network):
    """A network whose gradients are those of the samples of all processes; the rest is that of the network itself."""

    def __init__(self, network: Network, team: Team, samples: int) -> None:
        self.blocks = network.blocks
        self._network, self._team, self._samples = network, team, samples

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        return self._network.apply(parameters, buffers, x, mode)

    def products(self, dtype: str, device: str) -> str:
        return self._network.products(dtype, device)

    def forward(self, parameters: Tensors, x: torch.Tensor, buffers: Tensors = ()) -> torch.Tensor:
        return self._network.forward(parameters, x, buffers)

    def gradients(
        self, parameters: Tensors, x: torch.Tensor, y: torch.Tensor, loss: Loss, buffers: Tensors = ()
    ) -> Backward:
        own = self._network.gradients(parameters, x, y, loss, buffers)
        return self._team.gather(own, self._team.shard(self._samples), self._samples)
