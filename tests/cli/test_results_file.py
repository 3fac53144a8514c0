import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcti_core.cli import results_file as module
from mcti_core.cli.results_file import ResultsFile, append_records, refuse_to_lose
from mcti_core.errors import FileError, ResumeError
from mcti_core.files.writing import part_path

IDENTITY = {"set of tokens": "a" * 64, "top": "1", "list of images": "b" * 64}
IMAGES = 23


def record(number):
    if number % 7 == 3:
        return {"image": f"{number}.png", "error": "broken"}
    return {"image": f"{number}.png", "label": "größer\n", "unknown": False, "index": number}


def lines(numbers):
    return b"".join(f"{json.dumps(record(n), ensure_ascii=False)}\n".encode() for n in numbers)


WHOLE = lines(range(IMAGES))


@pytest.fixture
def results(tmp_path):
    return ResultsFile(tmp_path / "out" / "answers.jsonl", IDENTITY)


def run(results, count=1, most=IMAGES, images=IMAGES):
    """A run of so many processes, each interrupted after ``most`` images. Returns which images were left to do."""
    results.begin(resume=True)
    answered, *_ = results.answered()
    left = [n for n in range(images) if f"{n}.png" not in answered]
    for index in range(count):
        own = left[len(left) * index // count : len(left) * (index + 1) // count]
        with append_records(part_path(results.path, index)) as append:
            append([record(n) for n in own[:most]])
    return left


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_finish_after_any_number_of_processes_gives_one_file_in_order(results, count):
    run(results, count)
    results.finish(IMAGES)
    assert results.path.read_bytes() == WHOLE
    assert os.listdir(results.path.parent) == ["answers.jsonl"]


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=5), images=st.integers(1, 30), data=st.data())
def test_finish_after_breaks_has_every_answer_once(tmp_path_factory, counts, images, data):
    """Each break also tears what was written last, at any byte, as a power cut may."""
    results = ResultsFile(tmp_path_factory.mktemp("run") / "answers.jsonl", IDENTITY)
    for count in counts:
        run(results, count, data.draw(st.integers(0, 9)), images)
        torn = data.draw(st.sampled_from(sorted(results.path.parent.glob("answers.jsonl*"))))
        if not torn.name.endswith("unfinished"):
            content = torn.read_bytes()
            rest = data.draw(st.sampled_from([b"", b"\0\0", b"{"]))
            torn.write_bytes(content[: data.draw(st.integers(0, len(content)))] + rest)
    run(results, data.draw(st.integers(1, 3)), images=images)
    results.finish(images)
    found = results.path.read_bytes().splitlines(keepends=True)
    assert sorted(found) == sorted(lines(range(images)).splitlines(keepends=True))
    assert os.listdir(results.path.parent) == ["answers.jsonl"]


def test_answered_images_are_not_done_again(results):
    assert run(results, 1, 6) == list(range(23))
    assert run(results, 2, 3) == list(range(6, 23))
    assert run(results, 1) == [*range(9, 14), *range(17, 23)]
    assert results.answered()[1:] == (23, 3)
    results.finish(IMAGES)


def test_append_by_the_first_process_goes_to_the_file_itself(results):
    """So that one can read along; each batch is there as soon as it is written."""
    results.begin(resume=False)
    with append_records(part_path(results.path, 0)) as append:
        append([record(0), record(1)])
        assert results.path.read_bytes() == lines([0, 1])
        append([record(2)])
        assert results.path.read_bytes() == lines([0, 1, 2])


@pytest.mark.parametrize("place", ["write_own", "delete_own"])
def test_finish_broken_off_loses_and_doubles_nothing(results, monkeypatch, place):
    """Before and after the joined file has its name."""
    run(results, 2)

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, place, interrupt)
        with pytest.raises(KeyboardInterrupt):
            results.finish(IMAGES)
    assert run(results, 3) == []
    results.finish(IMAGES)
    assert results.path.read_bytes() == WHOLE
    assert os.listdir(results.path.parent) == ["answers.jsonl"]


@pytest.mark.parametrize("rest", [b"{", b'{"image": "cut o', b'{"image": "7.png"}\n', b"\0\0\n", b"9" * 5000 + b"\n"])
def test_answered_drops_a_cut_line_and_all_behind_it(results, rest):
    run(results, 1, 6)
    with open(results.path, "ab") as file:
        file.write(rest + lines([9]))
    assert run(results) == list(range(6, 23))
    results.finish(IMAGES)
    assert results.path.read_bytes() == WHOLE


@pytest.mark.parametrize("index", [0, 1])
def test_a_hole_that_a_power_cut_left_is_answered_again(results, index):
    """A block of zeros, though what was written after it is there."""
    run(results, 2, 4)
    content = bytearray(part_path(results.path, index).read_bytes())
    content[15:20] = bytes(5)
    part_path(results.path, index).write_bytes(content)
    refuse_to_lose(results.path, resume=True, restart=False)  # or it would raise
    first = 11 * index  # of 23 images half are the second process's
    assert set(range(first, first + 4)) <= set(run(results))
    results.finish(IMAGES)


def test_finish_with_missing_answers_is_an_error(results):
    run(results, 2, 2)
    with pytest.raises(ResumeError, match="19 answers are missing"):
        results.finish(IMAGES)
    assert len(results.answered()[0]) == 4


@pytest.mark.parametrize("name", ["top", "set of tokens"])
def test_answers_of_different_runs_are_never_mixed(results, name):
    run(results, 2, 1)
    other = replace(results, identity={**IDENTITY, name: "3" if name == "top" else "b" * 64})
    told = "top was 1, is 3" if name == "top" else "different set of tokens"
    for refuse in (lambda: other.begin(resume=True), other.refuse_others):
        with pytest.raises(ResumeError, match=told) as caught:
            refuse()
        assert "--restart" in str(caught.value)
    assert len(results.answered()[0]) == 2


def test_starting_over_drops_everything(results):
    run(results, 3, 1)
    other = replace(results, identity={"top": "3"})
    other.begin(resume=False)
    assert other.answered() == (set(), 0, 0)
    assert [path.name for path in results.path.parent.iterdir()] == ["answers.jsonl.unfinished"]
    other.refuse_others()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_a_mark_that_is_damaged_is_reported(results, content):
    run(results, 1, 1)
    (results.path.parent / "answers.jsonl.unfinished").write_bytes(content)
    with pytest.raises(ResumeError, match="--restart"):
        results.begin(resume=True)


def test_nothing_is_lost_without_consent(results):
    path = results.path
    refuse_to_lose(path, resume=False, restart=False)
    refuse_to_lose(path, resume=True, restart=False)
    run(results, 1, 1)
    with pytest.raises(ResumeError, match=r"--resume.*--restart.*another --output"):
        refuse_to_lose(path, resume=False, restart=False)
    refuse_to_lose(path, resume=True, restart=False)
    run(results)
    results.finish(IMAGES)
    for resume, instead in ((False, "--overwrite"), (True, "--restart")):
        with pytest.raises(ResumeError, match=rf"already exists and is complete.*{instead}"):
            refuse_to_lose(path, resume=resume, restart=False)
    refuse_to_lose(path, resume=False, restart=True)
    refuse_to_lose(path, resume=False, restart=False, overwrite=True)


@pytest.mark.parametrize("resume", [False, True])
def test_parts_without_a_mark_are_not_lost_without_consent(results, resume):
    run(results, 2, 6)
    results.path.with_name("answers.jsonl.unfinished").unlink()
    results.path.unlink(missing_ok=True)
    with pytest.raises(ResumeError, match=r"part-00001 holds answers.*--restart"):
        refuse_to_lose(results.path, resume=resume, restart=False)
    refuse_to_lose(results.path, resume=False, restart=True)


def test_files_beside_it_are_left_alone(results):
    results.path.parent.mkdir()
    others = ["answers.jsonl.part-1.txt", "answers.jsonl.part-x", "other.jsonl.part-00001", "answersXjsonl.part-00001"]
    for name in others:
        (results.path.parent / name).write_text("here first")
    run(results, 2)
    results.finish(IMAGES)
    assert sorted(os.listdir(results.path.parent)) == sorted([*others, "answers.jsonl"])


def test_a_name_that_is_no_text_can_be_read_back(results):
    name = os.fsdecode(b"caf\xe9.png")
    answer = {"image": name, "label": "ü", "unknown": False, "index": 0}
    results.begin(resume=False)
    with append_records(part_path(results.path, 0)) as append:
        append([answer])
    assert results.answered() == ({name}, 1, 0)
    assert json.loads(results.path.read_text(encoding="utf-8")) == answer


@pytest.mark.parametrize(
    "theirs",
    [
        '{"image": "1.png", "caption": "a mug"}\n', '{"image": "1.png", "label": "mug"}\n', '{"image": "1.png", "label": "mug"}',
        '{"image": "1.png", "label": null, "unknown": "x", "index": 1}\n', '{"image": {"index": 1}}\n', "12345", '{"image": ""}',
        '{"image": "' + "x" * 2**18, "\0" * 300000 + "data", *('{"image": "1.png", "caption": "a mug"}' + end for end in (" ", "\t", ",", "\0", "\r{")),
        '{"image": "1.png", "capt', '{"image": "1.png", "label": {}, "unknown": true, "index": 1}\n', '{"image": "1\n2", "label',
        '{"image": "1.png", "label": "mug",\n "caption": 1}', '{"image": "1.png", "label": None}\n', "{\0i\0", '{"image": "1.png", "label": "x", }\n',
    ],
    ids=range(21),
)  # fmt: skip
@pytest.mark.parametrize("beside_unfinished", [False, True])
def test_lists_of_images_of_other_programs_are_left_alone(results, theirs, beside_unfinished):
    results.path.parent.mkdir()
    if beside_unfinished:
        results.begin(resume=False)
    results.path.write_bytes(theirs.encode())
    with pytest.raises(FileError, match="not written by MC-TI"):
        refuse_to_lose(results.path, resume=False, restart=True)
    with pytest.raises(FileError, match="not written by MC-TI"):
        results.begin(resume=False)
    assert results.path.read_bytes() == theirs.encode()


@pytest.mark.parametrize("theirs", ['{"author": "me"}', "{}", '{"list of images": 1}'])
def test_mark_of_others_is_left_alone(results, theirs):
    results.path.parent.mkdir()
    mark = results.path.with_name(results.path.name + ".unfinished")
    mark.write_text(theirs)
    with pytest.raises(FileError, match="not written by MC-TI"):
        refuse_to_lose(results.path, resume=False, restart=True)
    assert mark.read_text() == theirs


@pytest.mark.parametrize("length", [0, 1, 9, 11, 20, 31, 60, 94])
def test_answers_that_a_break_has_cut_off_anywhere_are_ours(results, length):
    results.path.parent.mkdir()
    line = '{"image": "a \\"b\\".png", "label": "a \\"c\\"", "unknown": false, "index": 3, "confidence": 1.0}'
    for file in (results.path, part_path(results.path, 1)):
        file.write_text(line[:length])
        refuse_to_lose(results.path, resume=False, restart=True)  # or it would raise
    results.begin(resume=False)
    assert not results.path.exists()
    assert not part_path(results.path, 1).exists()


def test_answer_with_all_classes_of_the_largest_set_is_ours(results):
    """Its line has more than 64 KiB."""
    top = [{"label": f"class {number}", "confidence": 0.000244} for number in range(4096)]
    results.begin(resume=False)
    with append_records(results.path) as append:
        append([record(0) | {"label": "a", "unknown": False, "index": 0, "top": top}])
    refuse_to_lose(results.path, resume=True, restart=False)  # or it would raise
    assert len(results.answered()[0]) == 1


def test_files_of_many_empty_gigabytes_are_not_read_whole(results):
    """They take no room on the disk."""
    mark = results.path.with_name("answers.jsonl.unfinished")
    run(results, 1, 6)
    for file in (results.path, mark):
        with open(file, "r+b") as hole:
            hole.truncate(2**36)
    with pytest.raises(ResumeError, match="cannot be read"):
        results.refuse_others()
    assert len(results.answered()[0]) == 6
    assert results.path.stat().st_size < 2**20
