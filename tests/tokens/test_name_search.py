"""Names of large sets in texts: the results of plain loops, in linear time."""

import difflib
import random
import unicodedata

import pytest

from mcti_core.prompts.syntax import parse_prompt
from mcti_core.tokens.name_search import KnownForms, letters_of
from mcti_core.tokens.names import normal_form
from mcti_core.tokens.references import known_forms, nearest, plain_letters

ALPHABETS = ("ab", "aB-_ ", "éeE\u0301", "ßsẞ", "猫犬", "İi\u0307ı", "น้ำ", "ﬁfi")


def word(rng: random.Random, longest: int) -> str:
    letters = rng.choice(ALPHABETS) + rng.choice(ALPHABETS)
    return unicodedata.normalize("NFC", "".join(rng.choice(letters) for _ in range(rng.randrange(1, longest))))


def test_forms_at_each_place_are_those_of_plain_loops():
    rng = random.Random(0)
    found = 0
    for _ in range(60):
        forms = list(dict.fromkeys(normal_form(word(rng, 5)) for _ in range(12)))
        known, text = KnownForms(tuple((form, 0) for form in forms)), word(rng, 25) + "".join(forms[:3])
        letters, starts, places = letters_of(text)
        if -1 in starts:  # marks that change places, which no plain loop over characters can follow
            continue
        everywhere = set()
        for at in range(len(text)):
            ends = {normal_form(text[at:end]): end for end in range(at + 1, len(text) + 1)}
            expected = [(each, ends[form]) for each, form in enumerate(forms) if form in ends]
            places_there = [
                (each, places[starts[at] + len(known.letters[each])]) for each in known.at(letters, starts[at])
            ]
            assert [pair for pair in places_there if pair[1] >= 0] == expected, (text, at)
            everywhere.update(each for each, _ in places_there)
            found += len(expected)
        assert known.within(letters, starts) == sorted(everywhere)
    assert found > 300


def test_nearest_name_is_difflibs():
    rng = random.Random(0)
    for _ in range(100):
        names = tuple(
            dict.fromkeys("".join(rng.choice("abc-") for _ in range(rng.randrange(3, 12))) for _ in range(20))
        )
        known = known_forms(names, names)
        name = "".join(rng.choice("abcd") for _ in range(rng.randrange(3, 12)))
        forms = {plain_letters(form): index for form, index in known.pairs}
        close = difflib.get_close_matches(plain_letters(name), forms, 1, 0.65)
        begins = [form for form in forms if name.startswith(form) and len(form) > 2]
        assert nearest(name, known) == next((forms[form] for form in (*close, *begins)), None)


@pytest.mark.parametrize("letters", ["ab", "猫犬"])
def test_names_within_a_prompt_without_spaces_are_looked_for_at_once(letters):
    """4,000 names, each of which is in the prompt: trying each at every place would take an hour."""
    rng = random.Random(0)
    prompt = "x" + "".join(rng.choice(letters) for _ in range(4990))
    names = tuple(dict.fromkeys(prompt[at : at + 40] for at in range(1, 4001)))
    assert parse_prompt(prompt, names) == ((prompt, 1.0),)


def test_name_among_very_many_alike_is_compared_with_few():
    """Comparing with all would take minutes."""
    rng = random.Random(0)
    names = tuple({"".join(rng.choice("ab") for _ in range(120)) for _ in range(4000)})
    known = known_forms(names, names)
    assert nearest(names[7][:-1], known) == 7
    nearest("ab" * 60, known)
