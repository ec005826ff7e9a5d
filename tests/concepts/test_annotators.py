import numpy as np

from diffusae.concepts.annotators import merge_instances


def test_instances_of_a_noun_become_one_mask_and_invisible_nouns_are_left_out():
    instances = [
        ("cat", np.array([[1, 0, 0]], dtype=bool)),
        ("dog", np.array([[0, 0, 0]], dtype=bool)),
        ("cat", np.array([[0, 0, 1]], dtype=bool)),
    ]
    merged = merge_instances(instances)
    assert list(merged) == ["cat"]
    assert merged["cat"].tolist() == [[True, False, True]]
    assert instances[0][1].tolist() == [[True, False, False]]
