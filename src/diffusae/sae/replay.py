"""One call of a function as one replay of a captured graph of the device's work.

A training step is some 150 small pieces of work. Handing them to a GPU one by one takes longer than
the work itself. A CUDA graph holds all of them and is handed over at once. It repeats exactly what
was captured: the same memory, the same sizes, and no wait for a result.

    call       1 2 3              4                     5 6 ...
    is         carried out        captured, replayed    replayed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

WARM_UP = 3
"""Calls before a capture: they make what is made once, such as the optimiser's state."""

T = TypeVar("T")


class Recorder(Protocol):
    """How calls are carried out and captured."""

    def carried_out(self, call: Callable[[], T]) -> T:
        """The result of the call, where a later capture may follow."""
        ...

    def captured(self, call: Callable[[], T]) -> Callable[[], T]:
        """What carries the call out at every call of its own, into the same results."""
        ...


class CudaGraphs:
    """Captures CUDA graphs, which share the memory that is theirs alone."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._memory = torch.cuda.graph_pool_handle()

    def carried_out(self, call: Callable[[], T]) -> T:
        """On the stream of the captures, as these must find it."""
        now = torch.cuda.current_stream()
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream), torch.autograd.set_multithreading_enabled(False):
            result = call()
        now.wait_stream(self._stream)
        return result

    def captured(self, call: Callable[[], T]) -> Callable[[], T]:
        """The same memory is written at every replay: results are to be read before the next."""
        graph = torch.cuda.CUDAGraph()
        # Backwards in this thread, and "thread_local": threads that read data may go on meanwhile.
        with (
            torch.autograd.set_multithreading_enabled(False),
            torch.cuda.graph(
                graph, pool=self._memory, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            result = call()

        def replay() -> T:
            graph.replay()
            return result

        return replay


class Replay(Generic[T]):
    """Calls `function(tensors, variant)` by replays of what was captured of it.

    Args:
        function: it must not depend on anything on the host that changes, except for `variant`.
        recorder: `CudaGraphs`; in tests, what carries out on a CPU.
    """

    def __init__(
        self, function: Callable[[Mapping[str, Tensor], bool], T], recorder: Recorder
    ) -> None:
        self.function, self.recorder = function, recorder
        self._inputs: dict[str, Tensor] = {}
        self._calls: dict[bool, int] = {}
        self._replays: dict[bool, Callable[[], T]] = {}
        self._logged: set[str] = set()
        self._gave_up = False

    def __call__(self, tensors: Mapping[str, Tensor], variant: bool) -> T:
        """The results, which the next call may overwrite."""
        if not self._inputs:
            self._inputs = {name: torch.empty_like(given) for name, given in tensors.items()}
        fitting = _kinds(tensors) == _kinds(self._inputs)
        if not fitting:
            self._log_once(
                "a batch of another size, such as the last of an epoch, is computed alone"
            )
        calls = self._calls[variant] = self._calls.get(variant, 0) + fitting
        if self._gave_up or not fitting or calls <= WARM_UP:
            return self.recorder.carried_out(lambda: self.function(tensors, variant))
        for name, given in tensors.items():
            self._inputs[name].copy_(given, non_blocking=True)
        if variant not in self._replays and not self._capture(variant):
            return self.recorder.carried_out(lambda: self.function(tensors, variant))
        return self._replays[variant]()

    def _capture(self, variant: bool) -> bool:
        """Whether the function could be captured."""
        inputs = self._inputs
        try:
            self._replays[variant] = self.recorder.captured(lambda: self.function(inputs, variant))
        except RuntimeError as error:
            self._gave_up = True
            self._log_once(
                f"the training step is not captured as a CUDA graph: {_first_line(error)}"
            )
        return not self._gave_up

    def _log_once(self, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            logger.info("%s", message)


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
