import json

import pytest
from torch.testing import assert_close

from composing import compose
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result, save_results
from diffusae.runs.record import parent_signature, read_record, run_record
from diffusae.sae.exchange import import_sae
from diffusae.sae.storage import load_sae
from diffusae.stages.export_cell import export_cell
from diffusae.stages.import_cell import import_cell
from diffusae.study.study import Study
from stages.trained_cell import X, place_trained


def config(stage, outputs, *overrides):
    return compose(stage, overrides=["debug=tiny", f"paths.outputs={outputs}", *overrides])


@pytest.fixture
def trained(tmp_path):
    """One cell as `train` leaves it, without a collection."""
    study = Study(config("train", tmp_path))
    sae = place_trained(study)
    return study, sae


def card_of(outputs, format="sae_lens"):
    return (outputs / "tiny" / "export" / format / "mid-t0.50-cond-k4" / "README.md").read_text()


def test_an_export_holds_the_autoencoder_and_its_card(trained, tmp_path):
    study, sae = trained
    for format in ("sae_lens", "eai_sparsify"):
        export_cell(config("export", tmp_path, f"format={format}"))
        directory = study.directory / "export" / format / study.cell_name
        assert_close(import_sae(directory)(X), sae(X))
        metadata = json.loads((directory / "cfg.json").read_text())["metadata"]
        assert (metadata["block"], metadata["t"], metadata["code_units"]) == ("mid", 0.5, "data")
        card = card_of(tmp_path, format)
        for part in (
            'base_model: "miniature"',
            "- hookpoint: mid_block.attentions.0",
            "- t: 0.5",
            "- conditioning: cond",
            "- val/fvu: 0.25",
            "- lr: 0.002",
            "- k: 4",
            "## Limits",
            "load_from_disk",
        ):
            assert part in card
        assert card.startswith("---\nlibrary_name:")
        assert str(tmp_path) not in card


def test_the_card_shows_only_results_of_this_very_autoencoder(trained, tmp_path):
    study, _ = trained
    signature = parent_signature(study.sae, stage="train")
    for parent, shown in (("0123456789abcdef", False), (signature, True)):
        directory = study.evaluation("reconstruction")
        with run_record(
            directory, stage="evaluate", config={}, determines={}, parents={"train": parent}, seed=0
        ):
            row = Result("fvu", Estimate(0.3125, (0.25, 0.375), 77), False, "share")
            save_results(directory / "results.json", [row])
        export_cell(config("export", tmp_path))
        assert (
            "| fvu (share) | 0.3125 | 0.25 to 0.375 | 77 | lower |" in card_of(tmp_path)
        ) is shown
        (directory / "run.json").unlink()


def test_an_export_needs_a_trained_autoencoder_and_a_known_format(trained, tmp_path):
    with pytest.raises(UserError, match="run `diffusae train`"):
        export_cell(config("export", tmp_path, "timestep=early"))
    with pytest.raises(UserError, match="unknown format 'onnx'; known: eai_sparsify, sae_lens"):
        export_cell(config("export", tmp_path, "format=onnx"))


def test_an_import_takes_the_place_of_a_training(trained, tmp_path):
    study, sae = trained
    export_cell(config("export", tmp_path))
    source = study.directory / "export" / "sae_lens" / study.cell_name
    imported = config("import", tmp_path, f"source={source}", "sae.tag=theirs")
    import_cell(imported)
    directory = study.directory / "sae" / "mid-t0.50-cond-theirs"
    assert_close(load_sae(directory)[0](X), sae(X))
    before = read_record(directory)
    assert before is not None
    import_cell(imported)
    assert read_record(directory) == before
    assert (before.stage, before.status) == ("import", "finished")
    export_cell(config("export", tmp_path, "sae.tag=theirs"))
    with pytest.raises(UserError, match="holds another run of train"):
        import_cell(config("import", tmp_path, f"source={source}", "sae.tag=k4"))


def test_an_import_without_a_source_tells_what_to_give(tmp_path):
    with pytest.raises(UserError, match="give source=DIR"):
        import_cell(config("import", tmp_path))
