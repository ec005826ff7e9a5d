"""Edit lists: what is read, what is refused, and that a list comes back as it was."""

from pathlib import Path
from typing import Any

import pytest

from diffusae.errors import UserError
from diffusae.steering.edit_list import EditList, LatentEdit, Painted, TextEditEntry, region_of

CELL = "down-t1.00-cond-k10"
LATENT: dict[str, Any] = {
    "cell": CELL,
    "latents": [373],
    "intervention": "spatial",
    "strength": 3.0,
    "region": "top_left",
}
TEXT: dict[str, Any] = {"layer": "text_2", "concept": "neon", "strength": -0.5}
PAINTED = {"height": 2, "width": 4, "rows": ["0011", "0000"]}


def listed(*edits: Any, **head: Any) -> dict[str, Any]:
    return {"prompt": "a red fish", "picture_seed": 3, "edits": list(edits)} | head


def changed(**values: Any) -> dict[str, Any]:
    """The edit of latents with other values; None takes a key away."""
    both = LATENT | values
    return {name: value for name, value in both.items() if value is not None}


def test_a_list_is_read_from_yaml_as_from_json(tmp_path: Path):
    path = tmp_path / "edits.yaml"
    path.write_text(f"""
prompt: a red fish
picture_seed: 3
edits:
  - {{cell: {CELL}, latents: [373], intervention: spatial, strength: 3.0, region: top_left}}
  - layer: text_2
    concept: neon
    strength: -0.5
""")
    read = EditList.read(path)
    assert read == EditList.of(listed(LATENT, TEXT))
    first, second = read.edits
    assert isinstance(first, LatentEdit) and isinstance(second, TextEditEntry)
    assert (read.prompt, read.picture_seed, first.latents) == ("a red fish", 3, (373,))
    assert first.window is None and second.conditionings == ("cond", "uncond")


def test_a_written_list_is_read_again_as_it_was(tmp_path: Path):
    moved = changed(
        region=PAINTED, source={"height": 1, "width": 2, "rows": ["10"]}, window=[1, 0.3]
    )
    taken = changed(
        latents=None, concept="no", intervention="ablate", region=None, conditionings=["uncond"]
    )
    edits = EditList.of(listed(moved, taken, TEXT, prompt='eine rote Fisch-Köchin: "x"'))
    path = tmp_path / "edits.yaml"
    path.write_text(edits.to_yaml(), "utf-8")
    assert EditList.read(path) == edits
    assert EditList.of(edits.to_json()) == edits
    assert "outside" not in edits.to_yaml()  # as by default


def test_the_digest_is_of_the_edits_alone():
    one, other = EditList.of(listed(LATENT)), EditList.of(listed(LATENT, picture_seed=9))
    assert one.digest == other.digest
    assert one.digest != EditList.of(listed(changed(strength=3.5))).digest


def test_a_painted_region_covers_what_its_rows_paint():
    region = region_of(Painted(**{**PAINTED, "rows": tuple(PAINTED["rows"])}))
    assert region is not None
    assert region.shares((2, 2)).tolist() == [0, 1, 0, 0]
    assert region.shares((4, 4)).reshape(4, 4)[:2, 2:].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (3, "edit 1 must have keys such as cell"),
        (changed(strenght=1), "key of edit 1: 'strenght'; known: .* Did you mean 'strength'"),
        (changed(cell=None), "edit 1 needs cell"),
        (changed(strength="3"), 'strength of edit 1 must be a number, is "3"'),
        (changed(strength=-1), "edit 1: strength=-1 of spatial must be above 0"),
        (changed(strength=1e9), "must be a number up to 10000"),
        (changed(strength=float("nan")), "must be a number up to 10000"),
        (changed(intervention="push"), "intervention of edit 1 must be"),
        (changed(intervention="clamp", strength=-1, region=None), "clamp must not be below 0"),
        (changed(latents=None), "needs either latents or a concept"),
        (changed(concept="fish"), "needs either latents or a concept"),
        (changed(latents=[]), "1 to 256 different whole numbers"),
        (changed(latents=[5, 5]), "1 to 256 different whole numbers"),
        (changed(latents=[True]), "latents of edit 1"),
        (changed(region="middle"), r"region \(or a painted one\) 'middle'; known: bottom"),
        (changed(region="/etc/passwd.png"), "unknown region"),
        (changed(region=None), "a spatial edit needs a region"),
        (changed(intervention="global"), "a global edit acts everywhere"),
        (changed(source="left", outside="keep"), "outside=keep subtracts nothing"),
        (changed(source="left", intervention="ablate"), "only a spatial edit has a source"),
        (changed(region=PAINTED | {"rows": ["0011"]}), "must be 2 texts of 4 characters"),
        (changed(region=PAINTED | {"rows": ["0021", "0000"]}), "rows of 0 and 1"),
        (changed(region=PAINTED | {"rows": ["0000", "0000"]}), "painted region is empty"),
        (changed(region=PAINTED | {"height": 999}), "from 1 to 128"),
        (changed(window=[0.2, 0.6]), r"window=\[0.2, 0.6\] must fall"),
        (changed(window=[0.2]), "window of edit 1 must have 2 entries"),
        (changed(conditionings=[]), "conditionings must be cond, uncond or both"),
        (TEXT | {"strength": 0}, "strength=0 changes nothing"),
        (TEXT | {"name": "../secret"}, "name="),
        (TEXT | {"cell": CELL}, "key of edit 1: 'cell'"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(edit: Any, message: str):
    with pytest.raises(UserError, match=message):
        EditList.of(listed(edit))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an edit list has the keys"),
        (listed(LATENT, colour=1), "key of an edit list: 'colour'"),
        (listed(), "1 to 16 edits"),
        (listed(*[LATENT] * 17), "1 to 16 edits"),
        (listed(LATENT, prompt=" "), "the prompt is empty"),
        (listed(LATENT, prompt="a" * 2001), "2001 characters"),
        (listed(LATENT, picture_seed=-1), "picture_seed=-1"),
        (listed(LATENT, picture_seed=2**53), "picture_seed="),
    ],
)
def test_a_list_that_cannot_be_is_refused(value: Any, message: str):
    with pytest.raises(UserError, match=message):
        EditList.of(value)


def test_all_faults_of_a_list_are_told_together():
    with pytest.raises(UserError) as caught:
        EditList.of(listed(changed(region="middle"), TEXT, TEXT | {"strength": 0}))
    assert [fault[:6] for fault in caught.value.faults] == ["edit 1", "edit 3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edits: [", "is damaged"),
        ("edits: !!python/object/apply:os.system [ls]", "is damaged"),
        ("edits: &a [*a]", "an alias"),
        ("prompt: a\nprompt: b\nedits: []", "the key 'prompt' comes twice"),
        ("edits: 2026-01-01", "edits must be a list of 1 to 16 edits, is date"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused_with_its_name(tmp_path: Path, text, message):
    path = tmp_path / "edits.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        EditList.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there is no edit list"):
        EditList.read(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(UserError, match="at most 1048576 are read"):
        EditList.read(tmp_path / "large.yaml")


def test_the_list_of_the_documentation_is_read(tmp_path: Path):
    page = Path(__file__).parents[2] / "docs" / "interventions.md"
    path = tmp_path / "edits.yaml"
    path.write_text(page.read_text("utf-8").split("```yaml\n")[1].split("```")[0], "utf-8")
    first, second, third = EditList.read(path).edits
    assert isinstance(second, LatentEdit) and isinstance(second.region, Painted)
    assert isinstance(first, LatentEdit) and isinstance(third, TextEditEntry)
