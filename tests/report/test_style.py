from diffusae.report.style import block_colours


def test_blocks_of_any_name_get_colours_of_their_own() -> None:
    blocks = ["down", "mid", "up", *"abcd"]
    assert len(set(block_colours(blocks).values())) == 7
