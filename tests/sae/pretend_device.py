"""A pretend GPU: tensors that lie on the CPU and say that they are elsewhere. An operation that
mixes them with tensors of the CPU raises, as it does on a GPU. Copies between both are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

ELSEWHERE = torch.device("meta")  # one that any build of torch knows
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
READ = torch.ops.aten._local_scalar_dense.default
TO_HOST, TO_DEVICE = "to the host", "to the device"

_crossed: Counter[str] = Counter()
"""Copies and single numbers that went from one to the other, since `pretend_device` began."""


class Elsewhere(Tensor):
    """A tensor on the pretend device; `here` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=ELSEWHERE,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(op, args, kwargs or {})


def carried_out(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    # Single numbers may come from the CPU.
    mixed = away and any(not isinstance(tensor, Elsewhere) and tensor.ndim for tensor in tensors)
    if (mixed and op not in COPIES) or any(
        type(tensor) is Tensor and tensor.is_meta for tensor in tensors
    ):
        shapes = ", ".join(f"{type(tensor).__name__} {list(tensor.shape)}" for tensor in tensors)
        raise AssertionError(f"{op} mixes devices: {shapes}")
    target = kwargs.get("device")
    if target is not None:
        away_after, kwargs = (
            torch.device(target) == ELSEWHERE,
            kwargs | {"device": torch.device("cpu")},
        )
    else:
        away_after = away
    if op is torch.ops.aten.copy_.default:
        away, away_after = isinstance(args[1], Elsewhere), isinstance(args[0], Elsewhere)
    if op in COPIES and away != away_after:
        _crossed[TO_DEVICE if away_after else TO_HOST] += 1
    if op is READ and away:
        _crossed[TO_HOST] += 1
    there = tree_map_only(Elsewhere, lambda tensor: tensor.here, (args, kwargs))
    result = op(*there[0], **there[1])
    if op is torch.ops.aten.copy_.default:
        return args[0]
    if not away_after:
        return result
    result = tree_map_only(Tensor, Elsewhere, result)
    return return_and_correct_aliasing(op, args, kwargs, result) if away else result


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carried_out(op, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Tensors of Python's numbers come about outside of torch's dispatcher."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.tolist and isinstance(args[0], Elsewhere):
            _crossed[TO_HOST] += 1
            return args[0].here.tolist()
        if function is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            _crossed[TO_DEVICE] += 1
            return Elsewhere(torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}))
        literal = function in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if (
            literal
            and kwargs.get("device") is not None
            and torch.device(kwargs["device"]) == ELSEWHERE
        ):
            _crossed[TO_DEVICE] += 1
            return Elsewhere(function(*args, **kwargs | {"device": "cpu"}))
        return function(*args, **kwargs)


@contextmanager
def pretend_device() -> Iterator[Counter[str]]:
    """Inside, tensors that are made on `ELSEWHERE` are `Elsewhere`. The counter has the copies
    `TO_HOST` and `TO_DEVICE`.
    """
    _crossed.clear()
    with _Factories(), _Literals():
        yield _crossed
