import re

import inflect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.concepts.words import Vocabulary, normal_words, plurals, words_of
from diffusae.errors import UserError
from diffusae.metrics.composition import nouns_in
from diffusae.miniature.world import NOUNS
from diffusae.miniature.worlds import SHAPES

ANIMALS = Vocabulary(
    ["dog", "cat", "hot dog", "person", "glass", "glasses", "cell phone", "glass of wine"],
    {
        "dog": ["puppy", "hound"],
        "cell phone": ["phone", "mobile-phone"],
        "person": ["man", "woman"],
    },
)


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("dog", "dog"),
        ("A Dog.", "dog"),
        ("dogs", "dog"),
        ("puppies", "dog"),
        ("3 puppies", "dog"),
        ("the dog's", "dog"),
        ("hot dogs", "hot dog"),
        ("hot_dog", "hot dog"),
        ("people", "person"),
        ("two women", "person"),
        ("glasses", "glasses"),
        ("glass", "glass"),
        ("glasses of wine", "glass of wine"),
        ("mobile phones", "cell phone"),
        ("CELL-PHONE", "cell phone"),
        ("toy dog", None),
        ("doghouse", None),
        ("", None),
        ("the", None),
    ],
)
def test_a_tag_means_one_label_or_none(tag, label):
    assert ANIMALS.label_of(tag) == label


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("a hot dog and a cat", ["cat", "hot dog"]),
        ("a dog with a hot dog", ["dog", "hot dog"]),
        ("A man's phone, two puppies; catsuit", ["dog", "person", "cell phone"]),
        ("glasses of wine beside her glasses", ["glasses", "glass of wine"]),
        ("category, dogma and concatenation", []),
        ("", []),
    ],
)
def test_the_longest_label_at_a_place_wins_and_its_words_count_for_no_other_label(text, labels):
    assert ANIMALS.labels_in(text) == labels


def test_a_text_has_the_words_by_which_it_names_a_label():
    named = ANIMALS.named_in("Two puppies, a dog's bone and a hot-dog")
    assert named == {"dog": {"puppies", "dog"}, "hot dog": {"hot", "dog"}}


def test_a_label_that_a_text_names_twice_appears_twice_in_the_order_of_the_text():
    found = ANIMALS.appearances("a hot dog, a dog and two puppies")
    assert found == [("hot dog", ["hot", "dog"]), ("dog", ["dog"]), ("dog", ["puppies"])]


def test_a_vocabulary_is_the_tuple_of_its_labels():
    assert tuple(ANIMALS) == ANIMALS and isinstance(ANIMALS, tuple)
    assert Vocabulary.of(ANIMALS) is ANIMALS
    assert Vocabulary.of(["dog"]) == ("dog",)
    assert ANIMALS.labels_of(["puppy", "nothing", "cat", "dogs"]) == ["dog", "cat"]


def test_words_that_could_mean_two_labels_are_refused_together():
    with pytest.raises(UserError) as raised:
        Vocabulary(["dog", "Dog", "!"], {"cat": ["kitten"]})
    faults = ("3 faults", "'Dog' means both 'dog' and 'Dog'", "'!' has no words")
    for part in (*faults, "'cat', which is no label"):
        assert part in str(raised.value)
    with pytest.raises(UserError, match="needs labels"):
        Vocabulary([])


def test_a_vocabulary_file_has_a_label_a_line_and_its_synonyms_behind_a_colon(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# pets\ndog: puppy, hound # and more\n\nhot dog\n", encoding="utf-8")
    vocabulary = Vocabulary.read(path)
    assert vocabulary == ("dog", "hot dog")
    assert vocabulary.label_of("hounds") == "dog"
    with pytest.raises(UserError, match="no readable vocabulary"):
        Vocabulary.read(tmp_path / "none.txt")


NOUNS_TO_COUNT = [
    "bus", "glass", "knife", "man", "fireman", "snowman", "human", "fish", "sheep", "mouse",
    "child", "box", "potato", "photo", "leaf", "roof", "bookshelf", "goose", "wolf", "piano",
    "sky", "toy", "dress", "chef", "tooth", "foot", "tv", "deer", "zebra", "dog", "house",
    "bench", "watch", "brush", "fox", "bee", "key", "baby", "cherry", "tomato", "kangaroo",
    "giraffe", "scarf", "calf", "loaf", "thief", "fork", "spoon", "church", "beach", "berry",
    "monkey", "donkey", "turkey", "lady", "city", "elf", "half", "life", "wife", "ox", "quiz",
    "kite", "vase", "bed", "cliff", "waterfall", "hot-dog",
]  # fmt: skip


@pytest.mark.parametrize("noun", NOUNS_TO_COUNT)
def test_plurals_agree_with_the_library_inflect(noun):
    noun = noun.replace("-", " ")
    assert inflect.engine().plural_noun(noun) in plurals(noun)  # type: ignore[arg-type]


def test_the_head_of_a_phrase_takes_the_plural():
    assert plurals("cup of coffee") == ("cups of coffee",)
    assert plurals("traffic light") == ("traffic lights",)
    assert plurals("shelf") == ("shelfs", "shelves")


@pytest.mark.parametrize("tag", ["fish", "two fishes", "boxes", "the churches", "foxes", "glasses"])
def test_a_plural_in_es_means_its_label(tag):
    labels = Vocabulary(["box", "church", "fish", "fox", "glass"])
    singular = normal_words(tag)[-1].removesuffix("es")
    assert labels.label_of(tag) == singular


def test_words_of_a_label_for_embeddings():
    for label in ("traffic_light", "traffic light", "traffic-light"):
        assert words_of(label) == ["traffic", "light"]


@given(seed=st.integers(0, 2**31), held_out=st.booleans())
def test_captions_of_the_world_name_what_a_search_for_whole_words_finds(seed, held_out):
    _, text = SHAPES.captioned_scene(seed, held_out=held_out)
    whole = [noun for noun in NOUNS if re.search(rf"(?<!\w){noun}(?!\w)", text, re.IGNORECASE)]
    assert nouns_in(text, NOUNS) == whole and whole


WORDS = st.text("abcdefghij", min_size=1, max_size=4)
PHRASES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)


@given(
    labels=st.lists(PHRASES, min_size=1, max_size=6, unique=True), text=st.lists(WORDS, max_size=12)
)
def test_every_label_means_itself_and_labels_of_a_text_are_in_it(labels, text):
    vocabulary = Vocabulary(labels)
    for label in labels:
        assert vocabulary.label_of(label) == vocabulary.label_of(f"The {label.upper()}!") == label
        assert vocabulary.labels_in(f"see, {label}.") == [label]
        assert all(vocabulary.label_of(plural) is not None for plural in plurals(label))
    joined = " " + " ".join(text) + " "
    for label in vocabulary.labels_in(joined):
        assert any(f" {form} " in joined for form in (label, *plurals(label)))


@given(text=st.text(max_size=60))
def test_any_text_can_be_read(text):
    assert ANIMALS.labels_in(text) == ANIMALS.labels_in(" ".join(normal_words(text)))
