import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcti_core.cli.results_file import ResultsFile, refuse_to_lose
from mcti_core.errors import FileError, ResumeError

IDENTITY = {"set of tokens": "a" * 64, "top": "1", "list of images": "b" * 64}


def record(number):
    if number % 7 == 3:
        return {"image": f"{number}.png", "error": "broken"}
    return {"image": f"{number}.png", "label": "größer\n", "unknown": False, "index": number}


def batch_of(answers, number):
    return [record(n) for n in range(number * answers.batch, min((number + 1) * answers.batch, answers.images))]


def whole(answers):
    return b"".join(f"{json.dumps(record(n), ensure_ascii=False)}\n".encode() for n in range(answers.images))


@pytest.fixture
def answers(tmp_path):
    return ResultsFile(tmp_path / "out" / "answers.jsonl", 23, 3, IDENTITY)


def run(answers, count, most=None, *, resume=True):
    """A run of so many processes, each interrupted after ``most`` batches. Returns which batches were left to do."""
    answers.begin(resume=resume)
    found, number = answers.found(), answers.next_run()
    open_ = [n for n in range(answers.batches) if n not in found]
    alone = count == 1 and not answers.has_parts()
    for index in range(count):
        with answers.itself(found) if alone else answers.part(number, index) as part:
            for n in open_[index::count][:most]:
                part.write(n, batch_of(answers, n))
    return open_


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_file_is_the_same_whoever_wrote_it(answers, count):
    run(answers, count)
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)
    assert os.listdir(answers.path.parent) == ["answers.jsonl"]


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    batch=st.integers(1, 9),
    images=st.integers(1, 30),
    data=st.data(),
)
def test_breaks_and_other_numbers_of_processes_change_nothing(tmp_path_factory, counts, batch, images, data):
    """Each break also tears what was written last, at any byte, as a power cut may."""
    answers = ResultsFile(tmp_path_factory.mktemp("run") / "answers.jsonl", images, batch, IDENTITY)
    for count in counts:
        run(answers, count, data.draw(st.integers(0, 4)))
        torn = data.draw(st.sampled_from(sorted(answers.path.parent.glob("answers.jsonl*"))))  # any of them
        if not torn.name.endswith("unfinished"):
            content = torn.read_bytes()
            torn.write_bytes(
                content[: data.draw(st.integers(0, len(content)))] + data.draw(st.sampled_from([b"", b"\0\0", b"{"]))
            )
    run(answers, data.draw(st.integers(1, 3)))
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)
    assert os.listdir(answers.path.parent) == ["answers.jsonl"]


def test_what_is_written_is_not_done_again(answers):
    assert run(answers, 1, 2) == list(range(8))
    assert run(answers, 2, 1) == list(range(2, 8))
    assert run(answers, 1) == list(range(4, 8))
    assert sum(piece.errors for piece in answers.found().values()) == 3


def test_a_process_alone_writes_into_the_file_itself(answers):
    """So that one can read along; each batch is there as soon as it is written."""
    answers.begin(resume=False)
    with answers.itself({}) as part:
        part.write(0, batch_of(answers, 0))
        assert answers.path.read_bytes() == b"".join(whole(answers).splitlines(keepends=True)[:3])
        part.write(1, batch_of(answers, 1))
        assert len(answers.path.read_bytes().splitlines()) == 6


def test_a_break_while_joining(answers, monkeypatch):
    """Before and after the joined file has its name."""
    run(answers, 2)
    from mcti_core.cli import results_file as module

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_own", interrupt)
        with pytest.raises(KeyboardInterrupt):
            answers.finish()
    assert run(answers, 1) == []
    with monkeypatch.context() as patch:
        patch.setattr(module.Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            answers.finish()
    assert answers.path.read_bytes() == whole(answers)
    assert run(answers, 3) == []
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)
    assert os.listdir(answers.path.parent) == ["answers.jsonl"]


@pytest.mark.parametrize("line", range(6))
def test_a_line_that_has_gone_astray_is_answered_again(answers, line):
    run(answers, 2, 2)
    part = sorted(answers.path.parent.glob("*.part-*"))[0]
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    assert 0 in run(answers, 1) if line < 3 else 2 in run(answers, 1)
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)


def test_a_part_that_begins_in_the_middle_of_a_batch(answers):
    run(answers, 2, 1)
    assert run(answers, 1, 2) == list(range(2, 8))
    part = sorted(answers.path.parent.glob("*.part-*"))[-1]  # batches 2 and 3, one after the other
    part.write_bytes(part.read_bytes().partition(b"\n")[2])
    assert run(answers, 3) == list(range(2, 8))
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)


@pytest.mark.parametrize("rest", [b"{", b'{"image": "cut o', b'{"image": "7.png"}', b"\0\0\n"])
def test_a_line_that_was_cut_off_is_dropped(answers, rest):
    run(answers, 1, 2)
    with open(answers.path, "ab") as file:
        file.write(rest)
    assert run(answers, 1) == list(range(2, 8))
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)


@pytest.mark.parametrize("count", [1, 2])
def test_a_hole_that_a_power_cut_left_is_answered_again(answers, count):
    """A block of zeros, though what was written after it is there."""
    run(answers, count, 3)
    file = answers.path if count == 1 else sorted(answers.path.parent.glob("*.part-*"))[0]
    content = bytearray(file.read_bytes())
    content[15:20] = bytes(5)
    file.write_bytes(content)
    assert 0 in run(answers, 1)
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)


def test_answers_that_are_missing_are_told(answers):
    run(answers, 2, 2)
    with pytest.raises(ResumeError, match="4 of 8 batches"):
        answers.finish()


@pytest.mark.parametrize("name", ["top", "set of tokens"])
def test_answers_of_different_runs_are_never_mixed(answers, name):
    run(answers, 2, 1)
    other = replace(answers, identity={**IDENTITY, name: "3" if name == "top" else "b" * 64})
    told = "top was 1, is 3" if name == "top" else "different set of tokens"
    for refuse in (lambda: other.begin(resume=True), other.refuse_others):
        with pytest.raises(ResumeError, match=told) as caught:
            refuse()
        assert "--restart" in str(caught.value)
    assert len(answers.found()) == 2


def test_starting_over_drops_everything(answers):
    run(answers, 1, 2)
    run(answers, 3, 1)
    other = replace(answers, identity={"top": "3"}, batch=4)
    other.begin(resume=False)
    assert other.found() == {}
    assert not other.path.exists()
    assert not other.has_parts()
    other.refuse_others()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_a_mark_that_is_damaged_is_told(answers, content):
    run(answers, 1, 1)
    (answers.path.parent / "answers.jsonl.unfinished").write_bytes(content)
    with pytest.raises(ResumeError, match="--restart"):
        answers.begin(resume=True)


def test_nothing_is_lost_unasked(answers):
    path = answers.path
    refuse_to_lose(path, resume=False, restart=False)
    refuse_to_lose(path, resume=True, restart=False)
    run(answers, 1, 1)
    with pytest.raises(ResumeError, match=r"--resume.*--restart.*another --out"):
        refuse_to_lose(path, resume=False, restart=False)
    refuse_to_lose(path, resume=True, restart=False)
    run(answers, 1)
    answers.finish()
    for resume in (False, True):
        with pytest.raises(ResumeError, match=r"already exists and is complete.*--restart"):
            refuse_to_lose(path, resume=resume, restart=False)
    refuse_to_lose(path, resume=False, restart=True)


def test_files_beside_it_are_left_alone(answers):
    answers.path.parent.mkdir()
    others = [
        "answers.jsonl.part-1-2.txt",
        "answers.jsonl.part-x",
        "other.jsonl.part-0001-00000",
        "answersXjsonl.part-0001-00000",
    ]
    for name in others:
        (answers.path.parent / name).write_text("here first")
    run(answers, 2)
    answers.finish()
    assert sorted(os.listdir(answers.path.parent)) == sorted([*others, "answers.jsonl"])


def test_a_name_that_is_no_text_can_be_read_back(answers):
    name = os.fsdecode(b"caf\xe9.png")
    answers = replace(answers, images=1)
    answers.begin(resume=False)
    with answers.itself({}) as part:
        part.write(0, [{"image": name, "label": "ü"}])
    answers.finish()
    assert json.loads(answers.path.read_text(encoding="utf-8")) == {"image": name, "label": "ü"}


@pytest.mark.parametrize(
    "theirs",
    [
        '{"image": "1.png", "caption": "a mug"}\n', '{"image": "1.png", "label": "mug"}\n', '{"image": "1.png", "label": "mug"}',
        '{"image": "1.png", "label": null, "unknown": "x", "index": 1}\n', '{"image": {"index": 1}}\n', "12345", '{"image": ""}',
        '{"image": "' + "x" * 2**16, "\0" * 70000 + "data",
    ],
    ids=range(9),
)  # fmt: skip
def test_lists_of_images_of_other_programs_are_left_alone(answers, theirs):
    answers.path.parent.mkdir()
    answers.path.write_text(theirs)
    with pytest.raises(FileError, match="not written by MC-TI"):
        refuse_to_lose(answers.path, resume=False, restart=True)
    with pytest.raises(FileError, match="not written by MC-TI"):
        answers.begin(resume=False)
    assert answers.path.read_text() == theirs


@pytest.mark.parametrize("theirs", ['{"author": "me"}', "{}", '{"list of images": 1}'])
def test_mark_of_others_is_left_alone(answers, theirs):
    answers.path.parent.mkdir()
    mark = answers.path.with_name(answers.path.name + ".unfinished")
    mark.write_text(theirs)
    with pytest.raises(FileError, match="not written by MC-TI"):
        refuse_to_lose(answers.path, resume=False, restart=True)
    assert mark.read_text() == theirs


def test_a_part_with_a_number_without_end_is_answered_again(answers):
    run(answers, 2, 2)
    part = sorted(answers.path.parent.glob("*.part-*"))[0]
    part.write_bytes(b"9" * 5000 + part.read_bytes())
    assert 0 in run(answers, 1)
    answers.finish()
    assert answers.path.read_bytes() == whole(answers)


@pytest.mark.parametrize("length", [0, 1, 9, 11, 20, 31, 60])
def test_answers_that_a_break_has_cut_off_anywhere_are_ours(answers, length):
    answers.path.parent.mkdir()
    line = '{"image": "a \\"b\\".png", "label": "a \\"c\\"", "unknown": false, "index": 3, "confidence": 1.0}'
    answers.path.write_text(line[:length])
    refuse_to_lose(answers.path, resume=False, restart=True)  # or it would raise
    part = answers.path.with_name(answers.path.name + ".part-0001-00000")
    part.write_text(f"12\t{line}"[:length])
    refuse_to_lose(answers.path, resume=False, restart=True)
    answers.begin(resume=False)
    assert not answers.path.exists()
    assert not part.exists()
