"""What is written is read back as it was, whatever text is in it."""

from hypothesis import given
from hypothesis import strategies as st

from fedlora.federation.files import append_lines, read_lines, write_json

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
