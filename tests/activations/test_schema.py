import pytest

from diffusae.activations.schema import Cell, CollectedSample, Stream, bytes_per_image
from diffusae.errors import UserError


def test_a_cells_key_folder_and_coordinates_spell_the_same_cell():
    cell = Cell("sd14", "mid", 0.5, "cond")
    assert (cell.key, cell.folder) == ("mid-t0.50-cond", "mid/t0.50/cond")
    assert cell.coordinates() == {"model": "sd14", "block": "mid", "t": 0.5, "conditioning": "cond"}


def test_negative_zero_is_the_last_step_and_not_a_folder_of_its_own():
    assert Cell("m", "mid", -0.0, "cond").folder == "mid/t0.00/cond"


def test_all_faults_of_a_cell_come_in_one_error():
    with pytest.raises(UserError) as caught:
        Cell("", "../up", 1.5, "con")
    message = str(caught.value)
    assert "4 faults" in message
    assert all(
        part in message for part in ("model's name", "'../up'", "t=1.5", "Did you mean 'cond'?")
    )


@pytest.mark.parametrize("block", ["images", "groups", "a/b", "a-b", "", "."])
def test_a_block_that_would_leave_or_hide_its_folder_is_refused(block: str):
    with pytest.raises(UserError, match="block"):
        Cell("m", block, 0.5, "cond")


def test_nan_is_no_diffusion_time():
    with pytest.raises(UserError, match="outside"):
        Cell("m", "mid", float("nan"), "cond")


def test_a_stream_knows_its_positions_and_its_cell(streams: list[Stream]):
    assert streams[0].positions == 6
    assert streams[0].cell("toy") == Cell("toy", "mid", 0.5, "cond")


@pytest.mark.parametrize("image_id", ["a.b", "a/b", "__a__", "", "x" * 81, "ä"])
def test_an_image_id_that_tar_or_webdataset_would_mangle_is_refused(image_id: str):
    with pytest.raises(UserError, match="image id"):
        CollectedSample(image_id=image_id, prompt="p", seed=0, split="train", updates={})


def test_meta_cannot_shadow_the_prompt():
    with pytest.raises(UserError, match="reserved names \\['prompt'\\]"):
        CollectedSample(
            image_id="a", prompt="p", seed=0, split="train", updates={}, meta={"prompt": "q"}
        )


def test_the_estimate_of_bytes_lies_above_the_truth(collection, streams: list[Stream]):
    _, manifest = collection
    end_of_a_tar = 10240  # tar rounds a file up to whole records of this size
    stored = sum(shard.bytes - end_of_a_tar for shard in manifest.entries)
    assert stored < 9 * bytes_per_image(streams, image_size=(6, 8))
