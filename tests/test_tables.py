"""Tables, whatever people write into them: every row comes back, under its line, with its fields as they were."""

import gzip

from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.corpora.tables import read_table

# Quotes, backslashes, Unicode's line separators, combining marks, a mark that is also a byte order mark, emoji: all
# but what separates fields and lines, and NUL, which Python 3.10 refuses.
ODD = "\"'\\ ,;|\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\ufeff\u00a0c\u030cß日😀\u200f#"
FIELDS = st.text(st.sampled_from(ODD) | st.characters(exclude_characters="\t\r\n\0", exclude_categories=["Cs"]))
COLUMNS = ["path", "sentence", "client_id"]


@settings(deadline=None)
@given(
    rows=st.lists(st.lists(FIELDS, min_size=3, max_size=3)),
    order=st.permutations(COLUMNS),
    line_end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
    zipped=st.booleans(),
    ends=st.booleans(),
)
def test_every_row_comes_back(tmp_path_factory, rows, order, line_end, bom, zipped, ends):
    path = tmp_path_factory.getbasetemp() / ("table.tsv.gz" if zipped else "table.tsv")
    text = line_end.join("\t".join(row) for row in [order, *rows]) + (line_end if ends else "")
    data = text.encode("utf-8-sig" if bom else "utf-8")
    path.write_bytes(gzip.compress(data) if zipped else data)
    expected = [(f"{path}:{line}", dict(zip(order, row, strict=True))) for line, row in enumerate(rows, start=2)]
    assert list(read_table(path, COLUMNS)) == expected


@settings(deadline=None)
@given(rows=st.lists(st.lists(FIELDS, min_size=2, max_size=6)))
def test_rows_of_another_length_show(tmp_path_factory, rows):
    """They have None among their values, or as a key, and the rows after them are whole."""
    path = tmp_path_factory.getbasetemp() / "lengths.tsv"
    path.write_text("\n".join("\t".join(row) for row in [COLUMNS, *rows]) + "\n", encoding="utf-8", newline="")
    read = [row for _, row in read_table(path, COLUMNS)]
    assert len(read) == len(rows)
    for row, fields in zip(read, rows, strict=True):
        assert list(row.values())[: min(3, len(fields))] == fields[:3]
        assert (None in row.values()) == (len(fields) < 3)
        assert row.get(None, []) == fields[3:]
