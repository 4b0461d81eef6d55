"""What is written is read back as it was, whatever text is in it."""

from hypothesis import given
from hypothesis import strategies as st

from fedlora.federation.files import append_lines, file_name, write_json
from fedlora.run_files import read_lines

HALVES = st.sampled_from("\ud800\udbff\udc00\udfff")
ANY_TEXT = st.lists(st.characters() | HALVES, max_size=20).map("".join)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_is_read_back(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("files") / "lines.jsonl"
    append_lines(path, {key: value})
    append_lines(path, {key: [value]})
    key, value = paired(key), paired(value)
    assert read_lines(path) == [{key: value}, {key: [value]}]


def paired(text):
    """Two halves side by side are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_half_a_character_is_its_escape_on_disk(tmp_path):
    write_json(tmp_path / "tree.json", {"name": "é\ud83d"})
    assert (tmp_path / "tree.json").read_bytes() == b'{\n  "name": "\xc3\xa9\\ud83d"\n}\n'


NAMES = [
    "",
    ".",
    "..",
    "...",
    ".x.part",
    "a/b",
    "a%2Fb",
    "%",
    "%2E",
    "ü" * 60,
    "x" * 300,
    "x" * 299 + "y",
    "\\",
    "nul\n",
]


def test_names_of_files_are_all_different_and_stay_in_their_folder(tmp_path):
    made = [file_name(name) for name in NAMES]
    assert len(set(made)) == len(made)
    for name in made:
        (tmp_path / f"{name}.000001.json").write_text("")
        assert not name.startswith(".")
    assert len(list(tmp_path.iterdir())) == len(made)
    assert file_name("ward/1") == "ward%2F1"
