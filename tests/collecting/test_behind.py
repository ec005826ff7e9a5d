"""What one thread makes, another takes: all of it, in order, and with the errors of both."""

import threading
from collections.abc import Iterator

import pytest

from diffusae.collecting.behind import BrokenOff, taken_behind
from diffusae.errors import UserError
from diffusae.stopping import StopSignal


def test_everything_is_taken_in_order_on_another_thread() -> None:
    taken: list[tuple[int, str]] = []

    def take(numbers: Iterator[int]) -> None:
        taken.extend((number, threading.current_thread().name) for number in numbers)

    taken_behind(range(40), take)
    assert [number for number, _ in taken] == list(range(40))
    assert all(name.startswith("taking") for _, name in taken)


def test_the_next_thing_is_made_while_one_is_taken() -> None:
    made = threading.Event()

    def make() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    def take(numbers: Iterator[int]) -> None:
        next(numbers)
        assert made.wait(10)  # 1 is made before 0 is done with
        assert list(numbers) == [1]

    taken_behind(make(), take)


def test_no_more_than_the_wanted_number_waits() -> None:
    released, ahead, made = threading.Event(), threading.Event(), []

    def make() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 3:  # 0 is being taken, 1 and 2 wait
                ahead.set()
            yield number

    def take(numbers: Iterator[int]) -> None:
        next(numbers)
        assert ahead.wait(10)
        assert not released.wait(0.15) and made == [0, 1, 2, 3]
        assert list(numbers) == [1, 2, 3, 4]

    taken_behind(make(), take, waiting=2)


def test_an_error_of_the_taking_ends_the_making_with_its_own_message() -> None:
    made = []

    def make() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    def take(numbers: Iterator[int]) -> None:
        next(numbers)
        raise UserError("the disk is full")

    with pytest.raises(UserError, match=r"^the disk is full$"):
        taken_behind(make(), take)
    assert len(made) <= 4


@pytest.mark.parametrize("error", [UserError("out of memory"), StopSignal(15)])
def test_what_was_made_before_an_error_or_a_stop_is_taken_first(error: BaseException) -> None:
    taken: list[int] = []

    def make() -> Iterator[int]:
        yield from range(3)
        raise error

    def take(numbers: Iterator[int]) -> None:
        with pytest.raises(BrokenOff):
            taken.extend(numbers)
        raise BrokenOff

    with pytest.raises(type(error)) as raised:
        taken_behind(make(), take)
    assert raised.value is error and taken == [0, 1, 2]
