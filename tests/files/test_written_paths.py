import unicodedata

import pytest

from mcti_core.files.written_paths import decoded_lines, folder_of


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_in_any_encoding_are_read(encoding, end):
    assert decoded_lines(end.join(["/home/mé/photos", "# 猫", ""]).encode(encoding)) == ["/home/mé/photos", "# 猫"]


@pytest.mark.parametrize("content", [b"", b"\0", b"/", b"\0\0", b"\xff\xfe", b"\xfe", bytes(range(256))])
def test_any_bytes_are_lines(content):
    assert isinstance(decoded_lines(content), list)


@pytest.mark.parametrize(
    "written",
    [
        "{}", " {}/ ", '"{}"', "'{}'", "“{}”", "„{}“", "«{}»", "<{}>", "`{}`", "\u202a{}", "\u00a0{}\u200b", "\ufeff\"{}\"", "file://{}", "file://localhost{}",
        "FILE://{}", "${{MCTI_HERE}}/my pets, new",
    ],
)  # fmt: skip
def test_folder_is_found_as_people_write_it(tmp_path, monkeypatch, written):
    monkeypatch.setenv("MCTI_HERE", str(tmp_path))
    folder = tmp_path / "my pets, new"
    folder.mkdir()
    assert folder_of(written.format(folder)) == folder


def test_folder_is_found_in_the_writing_of_addresses_and_terminals(tmp_path):
    folder = tmp_path / "my pets"
    folder.mkdir()
    assert folder_of(f"file://{tmp_path}/my%20pets") == folder
    assert folder_of(f"{tmp_path}/my\\ pets") == folder


@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_folder_is_found_in_other_composition_and_encoding(tmp_path, there):
    folder = tmp_path / unicodedata.normalize(there, "café")
    folder.mkdir()
    for form in ("NFC", "NFD"):
        assert folder_of(unicodedata.normalize(form, str(tmp_path / "café"))) == folder
    (line,) = decoded_lines(f"{tmp_path}/café".encode("cp1252"))
    assert folder_of(line) == folder


def test_folder_that_stands_there_to_the_letter_goes_first(tmp_path):
    for name in ("$X", "'a'", "a"):
        (tmp_path / name).mkdir()
    assert folder_of(f"{tmp_path}/$X") == tmp_path / "$X"
    assert folder_of(f"{tmp_path}/'a'") == tmp_path / "'a'"


@pytest.mark.parametrize("written", ["", "photos", "./photos", '""', "\0", "file://", "~nobody-here/x", "$NOT_THERE/x", "\udce9", "x" * 9999])  # fmt: skip
def test_line_without_a_folder_opens_none(tmp_path, monkeypatch, written):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert folder_of(written) is None


def test_file_is_no_folder(tmp_path):
    (tmp_path / "x").touch()
    assert folder_of(str(tmp_path / "x")) is None
