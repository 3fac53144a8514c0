import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.errors import TokenError
from mcti_core.prompts.splicing import check_templates
from mcti_core.prompts.syntax import parse_prompt
from mcti_core.tokens.names import safe_names
from mcti_core.tokens.references import LOOSE_WEIGHT

LABELS = ("fox", "blue mug", "Café", "🦊", "नमस्ते", "noël_2", "Große Straße", "J̌ár")
NAMES = safe_names(LABELS)


def classes(prompt: str, labels=LABELS) -> list[int]:
    return [piece for piece, _ in parse_prompt(prompt, safe_names(labels), labels) if isinstance(piece, int)]


def words(prompt: str) -> str:
    return "".join(
        piece if isinstance(piece, str) else f"<{piece}>" for piece, _ in parse_prompt(prompt, NAMES, LABELS)
    )


def spellings(text: str) -> list[str]:
    plain = [
        f"{{{text}}}",
        f"{{ {text} }}",
        f"{{{{{text}}}}}",
        f"｛{text}｝",
        f"embedding:{text}",
        f"embedding: {text}",
        f"embedding: embedding:{text}",
    ]
    quoted = [f'embedding:"{text}"', f"embedding:<{text}>", f"embedding:{{{text}}}", f"EMBEDDING：{text}"]
    files = [f"embedding:{text}.safetensors", f"embedding:{text}.PT", f"embedding:{text}.bin"]
    kinds = [f"{{embedding:{text}}}", f"{{ti:{text}}}", f"<ti:{text}>"]
    return [*plain, *quoted, *files, *kinds, f"<{text}>", f"<embed:{text}>", f"<embedding:{text}>"]


@pytest.mark.parametrize("index", range(len(LABELS)))
def test_every_spelling_of_a_name_or_label_is_the_token(index):
    for written in (NAMES[index], LABELS[index], LABELS[index].upper(), *(unicodedata.normalize(f, LABELS[index]) for f in ("NFC", "NFD"))):  # fmt: skip
        for spelling in spellings(written):
            for around in ("{}", "a {}", "a {}, red", "({}:1.3) x", "((big {}))", "a {}.", "x\n{}\ny"):
                prompt = around.replace("{}", spelling)
                assert classes(prompt) == [index], prompt


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("embedding:fox,embedding:blue-mug", [0, 1]),
        ("{fox}{Café}", [0, 2]),
        ("(embedding:fox,{blue mug}:0.8)", [0, 1]),
        ("a blue-mug on a table", [1]),  # a name that is no word
        ("a noël-2", [5]),
        ("a BLUE_MUG and a noël_2", [1, 5]),
        ("a große_straße", [6]),
        ("a fox", []),
        ("embedding:fox's den", [0]),
        ("embedding:foxembedding:blue-mugembedding:fox", [0, 1, 0]),  # prompts that were joined without a space
        ("embedding:fox.safetensorsembedding:blue_mug.ptembedding:fox.bin", [0, 1, 0]),
        ("{fox}-like {fox}+{Café}, C++ __", [0, 0, 2]),
        ("snake_case__name", []),
        ("embedding:नमस्ते,", [4]),
        ("\\{fox\\}", []),
        ("3 < 4 > 2, <3", []),
    ],
)
def test_prompt_names_these_classes(prompt, found):
    assert classes(prompt) == found


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a {fox", "has a '{' without its '}'; write a token as {fox}"),
        ("a fox}", "has a '}' without its '{'"),
        ("a {fox:1.4}", r"write a weight as \({fox}:1.2\)"),
        ("embedding:fox:1.4", r"write \({fox}:1.2\)"),
        ("{fox|blue mug}", "write one name"),
        ("{fox} BREAK {blue mug}", "leave BREAK out"),
        ("a [fox:0.4]", r"write a lower weight as \(words:0.9\)"),
        ("{fox} AND {blue mug}", "leave AND out"),
        ("a __fox__ here", r"contains '__fox__'.*write a token as {fox}"),
        ("a __animals/fox-*1__", "stands for a line of a file"),
        ("a {fox}++ here", r"has '\+\+' after a token.*write a weight as \({fox}:1.2\)"),
        ("a (fox)+", r"has '\+' after"),
        ("{fox}--, red", "has '--' after"),
        ('("{fox}", "{Café}").blend(1, 1)', r"has '.blend\(' after"),
        ("{fox}.swap({Café})", r"has '.swap\(' after"),
        ("{fox}::2", r"write \({fox}:1.2\)"),
        ("<ti:fox:0.8>", r"write a weight as \({fox}:1.2\)"),
        ("embedding:pets/fox", "did you mean {fox}?"),
        ("embedding:embeddings\\fox.pt", "did you mean {fox}?"),
        ("a [[embedding:fox]]", r"contains '\[{fox}\]'.* lower weight"),
        ("(embedding:fox:1.2", r"has a '\(' without a matching bracket"),
        ("embedding:fox)", r"plain bracket as \\\)"),
        ("(fox:inf)", "a weight is a number"),
        ("<lora:fox:0.7>", "loads no files"),
        ("<fox-toy>", "names 'fox-toy', which is not a token here"),
        ("{foxx}", "did you mean {fox}?"),
        ("embedding:fox2", r"names 'fox2'.*there are: fox, blue-mug \(blue mug\), Café, fox-face \(🦊\)"),
        ("embedding:fox.v2", "names 'fox.v2'"),
        ("embedding:foxtrot and more", "names 'foxtrot'"),
        ("embedding:न", "names 'न'"),
        ("{}", "which is not a token"),
        ("embedding:", "which is not a token"),
    ],
)
def test_prompt_that_cannot_be_understood_shows_the_right_spelling(prompt, message):
    with pytest.raises(TokenError, match=message.replace("{", r"\{").replace("?", r"\?")):
        parse_prompt(prompt, NAMES, LABELS)


@pytest.mark.parametrize("label", ["BREAK", "AND", "__dunder__", "[x]", "lora:x", "a++"])
def test_class_that_is_called_as_a_sign_of_others_is_found(label):
    (name,) = safe_names([label])
    for prompt in (f"a {{{name}}}", f"embedding:{name}", f"<{name}>"):
        assert classes(prompt, (label,)) == [0], prompt


def test_a_name_inside_another_letter_with_marks_is_not_the_token():
    with pytest.raises(TokenError, match="names 'कि'"):
        parse_prompt("embedding:कि", ("क",))


@pytest.mark.parametrize(
    ("prompt", "word"), [("a Fox here", "Fox"), ("my blue mug", "blue mug"), ("noël 3 and a Big Cat.", "Big Cat")]
)
def test_a_name_drawn_as_a_word_is_logged(prompt, word, caplog):
    parse_prompt.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert parse_prompt(prompt, (*NAMES, "big-cat")) == ((prompt, 1.0),)
    assert f"{word!r} is treated as a word; write {{" in caplog.text


def test_a_name_within_a_script_without_spaces_is_logged(caplog):
    parse_prompt.cache_clear()
    with caplog.at_level(logging.WARNING):
        parse_prompt("一只狐狸在雪中", ("狐狸",))
    assert "write {狐狸}" in caplog.text


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (b) c", [("a ", 1), ("b", 1.1), (" c", 1)]),
        ("((b))", [("b", 1.1 * 1.1)]),
        ("(a (b:0.5) c:2)", [("a ", 2), ("b", 0.5), (" c", 2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(:2)", [(":2", 1.1)]),
        ("\\(a\\) (b: 1.5 )", [("(a) ", 1), ("b", 1.5)]),
        ("({fox}:1.2)", [(0, 1.2)]),
        ("(a embedding:fox b:-1)", [("a ", -1), (0, -1), (" b", -1)]),
    ],
)
def test_weights_are_comfyuis(prompt, expected):
    found = parse_prompt(prompt, NAMES, LABELS)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@given(st.text(st.sampled_from("fox {}()<>[]:1.,-\\\"'embding猫é\u0301"), max_size=30))
def test_any_prompt_is_parsed_or_refused(prompt):
    try:
        pieces = parse_prompt(prompt, NAMES, LABELS)
    except TokenError:
        return
    assert all(isinstance(piece, str) or 0 <= piece < len(NAMES) for piece, _ in pieces)
    assert not any(c > "\U000effff" for piece, _ in pieces if isinstance(piece, str) for c in piece)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("(" * 3000, "has a '\\('|50 nested brackets"),
        ("(" * 400 + "{fox}" + ")" * 400, "has more than 50 nested brackets; write weights as"),
        ("{" * 50_000, "has 50,000 characters; write at most 5,000"),
        ("{fox} a" + "\u0301\u0316" * 2000, "very many combining marks on one letter; write at most 30"),
    ],
)
def test_prompt_without_end_is_refused_at_once(prompt, message):
    with pytest.raises(TokenError, match=message):
        parse_prompt(prompt, NAMES, LABELS)


def test_name_goes_before_the_label_of_another_class_in_every_spelling():
    labels = ("fox!", "fox")  # whose names are fox and fox-2
    for prompt in ("{fox}", "embedding:fox", 'embedding:"fox"', "<fox>", "<embed:fox>"):
        assert classes(prompt, labels) == [0], prompt
    assert classes("{fox!} {fox-2}", labels) == [0, 1]


@pytest.mark.parametrize(("written", "meant"), [("ｆｏｘ", "fox"), ("cafe", "Café"), ("fo\u200bx", "fox"), ("fos", "fox"), ("noel_2", "noël-2"), ("नमस्त", "नमस्ते")])  # fmt: skip
def test_name_close_to_a_tokens_is_asked_about(written, meant):
    for prompt in (f"{{{written}}}", f"embedding:{written}, red"):
        with pytest.raises(TokenError, match=f"did you mean {{{meant}}}"):
            parse_prompt(prompt, NAMES, LABELS)


@pytest.mark.parametrize(
    ("text", "loose"),
    [
        (":1.2", True),
        (": .5 x", True),
        (":1.2)", False),
        (":1. )", False),
        ("::2 )x", False),
        (":-1,", True),
        (":.", False),
    ],
)
def test_loose_weight_is_a_number_without_a_bracket_behind_it(text, loose):
    assert bool(LOOSE_WEIGHT.match(text, 0)) == loose


def test_loose_weight_of_very_many_digits_is_found_at_once():
    """Cubic time would take days."""
    assert not LOOSE_WEIGHT.match(":" + "1" * 100_000 + ")")


def test_bare_names_at_very_many_places_are_not_all_looked_at(monkeypatch):
    """Labels of each length up to 1,000 in a prompt that repeats itself would take seconds."""
    prompt, labels = "ab " * 100 + "big-cat", ("ab ab a", "big-cat")
    assert parse_prompt.__wrapped__(prompt, ("x", "big-cat"), labels)[-1] == (1, 1.0)
    monkeypatch.setattr("mcti_core.prompts.syntax._MAX_CANDIDATES", 50)
    assert parse_prompt.__wrapped__(prompt, ("x", "big-cat"), labels) == ((prompt, 1.0),)


@pytest.mark.parametrize("prompt", ["a {fox} \udcff", "\ud83e", "{\udc80}"])
def test_half_a_character_in_a_prompt_is_refused(prompt):
    with pytest.raises(
        TokenError, match=r"contains an invalid character \(a lone surrogate\); remove it|is not a token here"
    ):
        parse_prompt(prompt, NAMES, LABELS)
    assert classes("{\udc80} {a}", ("\udc80", "a")) == [0, 1]  # a label may hold one
    with pytest.raises(TokenError, match="lone surrogate"):
        check_templates(["a {} \udcff"])
