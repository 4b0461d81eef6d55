"""What is written is read back as it was, whatever text is in it."""

from hypothesis import given
from hypothesis import strategies as st

from fedlora.federation.files import append_lines, read_lines, write_json

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_is_read_back(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("files") / "lines.jsonl"
    append_lines(path, {key: value})
    append_lines(path, {key: [value]})
    assert read_lines(path) == [{key: value}, {key: [value]}]


def test_half_a_character_is_its_escape_on_disk(tmp_path):
    write_json(tmp_path / "tree.json", {"name": "é\ud83d"})
    assert (tmp_path / "tree.json").read_bytes() == b'{\n  "name": "\xc3\xa9\\ud83d"\n}\n'
