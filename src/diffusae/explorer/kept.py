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
    """A bounded memory of values that take long to make. Threads may share it.

    Args:
        most: the size of all values together. A value that is larger than this is not kept.
        size: of a value, such as its bytes.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size, self._used = most, size, 0
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key; it is made where it is not kept. What `make` raises is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Two threads may make the same value; they do not wait for each other.
        value = make()
        with self._lock:
            if key not in self._values and self._size(value) <= self._most:
                self._values[key] = value
                self._used += self._size(value)
                while self._used > self._most:
                    self._used -= self._size(self._values.popitem(last=False)[1])
        return value

    @property
    def used(self) -> int:
        """The size of all kept values together."""
        return self._used
