"""The codes of single pictures and the composition that they predict are those of the study."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.explorer.looking import CellCodes, Looking, chosen_settings
from diffusae.exploring.cells import OpenCell
from diffusae.labelling.codes import PicturesOfStudy, code_source
from diffusae.sae.sparsity import Codes
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study
from explorer.synthetic_study import SyntheticWords
from exploring.tiny_study import ByHand
from labelled_collection import place_all, study_in


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    made = study_in(tmp_path_factory.mktemp("outputs"))
    place_all(made)
    return made


def test_codes_are_given_by_falling_values_and_only_where_active():
    values = torch.tensor([[0.5, 2.0, 0.0], [0.0, 0.0, 0.0]])
    codes = CellCodes.of(Codes(values, torch.tensor([[7, 3, 0], [0, 1, 2]])), (1, 2))
    assert codes.to_json() == {"grid": [1, 2], "indices": [[3, 7], []], "values": [[2.0, 0.5], []]}


def test_the_codes_of_one_picture_are_those_of_all_to_the_bit(study: Study):
    sae, _ = load_sae(study.sae)
    pictures = PicturesOfStudy(study)
    for split in ("dictionary", "test"):
        for wanted in list(code_source(study, sae)(split))[::17]:
            one = pictures.codes(study, sae, wanted.image_id)
            assert one is not None
            for name, numbers in vars(wanted.codes).items():
                assert np.array_equal(getattr(one.codes, name), numbers)
    assert pictures.codes(study, sae, "nobody") is None
    assert pictures.prompt("test003") == "" and pictures.prompt("nobody") is None


def test_norms_are_the_lengths_of_updates_ascending(study: Study):
    norms = PicturesOfStudy(study).norms(study, "test", 2)
    sae, _ = load_sae(study.sae)
    first = [picture.updates for picture in code_source(study, sae)("test")][:2]
    wanted = sorted(
        np.linalg.norm(row)
        for updates in first
        if updates is not None
        for row in updates.astype(np.float32)
    )
    assert norms.tolist() == pytest.approx(wanted)
    assert norms.size == 32


def test_a_collected_picture_is_looked_at_by_its_cell(study: Study):
    cell = OpenCell.of_study(study)
    looking = Looking(study, lambda _: cell)
    codes = looking.codes(cell.name, "test003")
    assert codes is not None and codes.grid == (4, 4)
    wanted = next(p for p in code_source(study, cell.sae)("test") if p.image_id == "test003")
    dense = np.zeros((16, 16), np.float32)
    np.put_along_axis(dense, codes.indices, codes.values, axis=1)
    assert np.array_equal(dense, wanted.codes.dense(16))
    assert looking.codes(cell.name, "nobody") is None


def test_a_cell_that_was_not_evaluated_has_the_usual_settings_and_no_threshold(study: Study):
    settings, threshold = chosen_settings(OpenCell.of_study(study))
    assert threshold is None and settings.top_n == 5


def test_labels_and_strengths_of_the_strongest_latents(tmp_path: Path, study: Study):
    cell = OpenCell.of_study(study)
    values = torch.tensor([[1.0, 0.5], [3.0, 0.25]])
    codes = CellCodes.of(Codes(values, torch.tensor([[4, 2], [2, 9]])), (1, 2))
    assert codes.strongest(cell) == [(2, 3.0, ""), (4, 1.0, ""), (9, 0.25, "")]


def by_hand(explored) -> Looking:
    """Looking with the embedding that the tiny study was labelled with."""
    looking = Looking(explored.study.settings, explored.generation.preparer.cell)
    vars(looking).update(_words=ByHand(), _vectors=(["wall", "fish"], torch.eye(2)))
    return looking


def test_a_dictionary_of_another_embedding_is_refused_with_both_names(explored):
    looking = by_hand(explored)
    vars(looking)["_words"] = SyntheticWords()
    codes = CellCodes.of(Codes(torch.ones(4, 1), torch.full((4, 1), 3)), (2, 2))
    with pytest.raises(UserError, match="the embedding by hand, and synthetic is configured"):
        looking.composition("down-t1.00-cond-k4", codes, "a red fish")


def test_an_embedding_without_any_noun_is_refused(explored):
    looking = by_hand(explored)
    del vars(looking)["_vectors"]
    codes = CellCodes.of(Codes(torch.ones(4, 1), torch.full((4, 1), 3)), (2, 2))
    with pytest.raises(UserError, match="by hand has a vector for none of the annotator's nouns"):
        looking.composition("down-t1.00-cond-k4", codes, "a red fish")


def test_the_composition_of_every_noun_is_the_cosine_of_the_concepts_at_a_position(explored):
    """Latent 3 of the tiny study is a fish, 9 the background, and 20 has no label."""
    looking = by_hand(explored)
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 3.0]])
    indices = torch.tensor([[3, 0], [9, 0], [20, 0], [3, 9]])
    codes = CellCodes.of(Codes(values, indices), (2, 2))
    made = looking.composition("down-t1.00-cond-k4", codes, "a red fish")
    assert list(made["nouns"]) == ["fish", "wall"]  # that of the prompt comes first
    assert made["nouns"]["fish"] == [[1.0, 0.0], [-1.0, 0.8]]
    assert made["nouns"]["wall"] == [[0.0, 1.0], [-1.0, 0.6]]
    assert made["threshold"] is None and "was not evaluated" in made["note"]
