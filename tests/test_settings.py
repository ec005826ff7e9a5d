"""Settings: what a part's dataclass refuses, and where its values come from."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf

from diffusae.errors import UserError
from diffusae.settings import Given, Settings, Within
from diffusae.study.checks import SETTINGS


@dataclass(frozen=True, kw_only=True)
class Oven(Settings, part="oven"):
    degrees: Annotated[int, Within(20, 250)]
    humidity: Annotated[float, Within(0, 1)] | None
    mode: Literal["fan", "grill"] | None
    light: bool
    racks: list[Annotated[int, Within(1, 4)]]
    menu: Mapping[str, int] | None
    owner: Annotated[str, Given("must name its owner; give oven.owner=NAME")]


SOUND: dict[str, Any] = {
    "degrees": 180,
    "humidity": 0.5,
    "mode": "fan",
    "light": True,
    "racks": [1],
    "menu": {"bread": 40},
    "owner": "Ada",
}


def oven(**changed: object) -> Oven:
    return Oven.of(OmegaConf.create({"oven": SOUND | {"unknown": 1} | changed}))


def test_values_are_plain_and_other_entries_are_left_alone():
    assert oven() == Oven(**SOUND)
    assert oven(humidity=None, mode=None).mode is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"degrees": 19}, "oven.degrees=19 must be a whole number from 20 to 250"),
        ({"degrees": 100.5}, "oven.degrees=100.5 must be a whole number from 20 to 250"),
        ({"degrees": True}, "oven.degrees=true must be a whole number from 20 to 250"),
        ({"degrees": None}, "oven.degrees=null must be a whole number from 20 to 250"),
        ({"degrees": "???"}, "oven.degrees is missing; give oven.degrees=..."),
        ({"humidity": float("nan")}, "oven.humidity=nan must be a number from 0 to 1, or null"),
        ({"menu": 3}, "oven.menu=3 must be a mapping, such as oven.menu={...}"),
        ({"owner": " "}, "oven.owner=  must name its owner; give oven.owner=NAME"),
        ({"light": 1}, "oven.light=1 must be true or false"),
        ({"racks": 2}, "oven.racks=2 must be a list, such as oven.racks=[...]"),
        ({"racks": [1, 5, 6]}, "oven.racks=5 must be a whole number from 1 to 4"),
        ({"mode": "fann"}, "unknown oven.mode 'fann'; known: fan, grill. Did you mean 'fan'?"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_rule(changed, message):
    with pytest.raises(UserError) as error:
        oven(**changed)
    assert str(error.value) == message


def test_all_faults_of_a_part_are_in_one_message():
    with pytest.raises(UserError, match=r"(?s)2 faults.*oven.degrees=0.*oven.light=no"):
        oven(degrees=0, light="no")


def test_settings_built_in_python_are_checked_as_those_of_a_file():
    with pytest.raises(UserError, match=r"oven.degrees=999 must be"):
        Oven(**{**SOUND, "degrees": 999})


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_no_setting_has_a_default_beside_the_one_in_its_file(kind):
    assert all(field.default is MISSING for field in fields(kind))
