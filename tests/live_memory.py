"""The most bytes that a computation holds at a time, beside the weights of its modules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Within the context, `peak` is the most bytes of tensors that were alive after any operation.

    It works on the meta device too, where a model of the true size takes no memory. What an
    operation takes within itself is not seen.
    """

    def __init__(self, module: nn.Module, *others: Tensor) -> None:
        """Leave out the weights of `module`, and `others`."""
        super().__init__()
        self.peak = 0
        own = [*module.parameters(), *module.buffers(), *others]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._own:
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(count for _, count in self._alive.values()))
        return made


def fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """The shape of attention's result, with no table of all pairs, as fused kernels have none."""
    return torch.empty((*query.shape[:-1], value.shape[-1]), device=query.device, dtype=query.dtype)
