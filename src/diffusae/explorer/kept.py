"""Values that are kept in memory up to a size, such as a number of bytes; the longest unused go
first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """A bounded memory of values that take long to make. Threads may share it: who asks for a value
    that another thread makes waits for it.

    Args:
        most: the size of all values together. A value that is larger than this is not kept.
        size: of a value, such as its bytes.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size, self._used = most, size, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key; it is made where it is not kept. What `make` raises is not kept."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]
            try:
                value = make()
                with self._lock:
                    self._keep(key, value)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value

    def _keep(self, key: Hashable, value: T) -> None:
        if key in self._values or self._size(value) > self._most:
            return
        self._values[key] = value
        self._used += self._size(value)
        while self._used > self._most:
            self._used -= self._size(self._values.popitem(last=False)[1])

    @property
    def used(self) -> int:
        """The size of all kept values together."""
        return self._used
