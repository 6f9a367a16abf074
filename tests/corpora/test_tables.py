"""Tables with any content: every row comes back, with its line number and its fields as they were."""

import csv
import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mlpl.corpora.tables import DELIMITERS, MAX_FIELD, QUOTED, TOO_LONG, read_table, row_problem

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
    """They have None among their values, or as a key, and the rows behind them are complete."""
    path = tmp_path_factory.getbasetemp() / "lengths.tsv"
    path.write_text("\n".join("\t".join(row) for row in [COLUMNS, *rows]) + "\n", encoding="utf-8", newline="")
    read = [row for _, row in read_table(path, COLUMNS)]
    assert len(read) == len(rows)
    for row, fields in zip(read, rows, strict=True):
        assert list(row.values())[: min(3, len(fields))] == fields[:3]
        assert (None in row.values()) == (len(fields) < 3)
        assert row.get(None, []) == fields[3:]


TABLES = {
    # what is written: the problem with each row, and the sentences of the good ones
    "sentence\tpath\n\xe8\ta\nb\tb\n".encode("latin-1"): (["bytes that are not UTF-8", None], ["b"]),
    b"path\tsentence\na\t" + b"x" * (MAX_FIELD + 1) + b"\nb\tb\n": (
        [TOO_LONG, None],
        ["b"],
    ),
    b"path\tsentence\na\t" + b"x" * 2**22 + b"\nb\tb\n": (
        [TOO_LONG, None],
        ["b"],
    ),
    b"path,sentence\na," + b"x" * 2**22 + b"\nb,b\n": ([TOO_LONG, None], ["b"]),
    b"path\tsentence\na\tn\0\nb\tb\n": (["NUL characters", None], ["b"]),
    b"path\tsentence\na\nb\tb\nc\tc\tc\n": (["wrong number of columns", None, "wrong number of columns"], ["b"]),
    b'path,sentence\na,"b\nc,c\nd,"d"\n': (["quotes that do not match", None, None], ["c", "d"]),
    b'path,sentence\na,"b\nc,c\n': (["quotes that do not match", None], ["c"]),
    b'path,sentence\na,"b"b\nc,5" disk\n': (["quotes that do not match", None], ['5" disk']),
    b'path;sentence\na;"one\ntwo, ""three"""\nc;d,e\n': ([None, None], ['one\ntwo, "three"', "d,e"]),
    b"\n\npath\tsentence\n\n007\tnull\n\r\nb\t\n": ([None, None], ["null", ""]),
}


@pytest.mark.parametrize("content", TABLES, ids=range(len(TABLES)))
def test_damage_costs_the_row_that_has_it(tmp_path, content):
    path = tmp_path / "table"
    path.write_bytes(content)
    rows = [row for _, row in read_table(path, ["path", "sentence"], None)]
    problems, sentences = TABLES[content]
    assert [row_problem(row) for row in rows] == problems
    assert [row["sentence"] for row in rows if not row_problem(row)] == sentences


def test_lines_have_their_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('path,sentence\n\na,"1\n2"\nb,"3\nc,4\n')
    places = [where.rpartition(":")[2] for where, _ in read_table(path, ["path"], None)]
    assert places == ["3", "5", "6"]


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.lists(FIELDS.filter(lambda field: "\n" not in field), min_size=3, max_size=3)),
    delimiter=st.sampled_from(DELIMITERS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
)
def test_delimiter_and_encoding_are_found(tmp_path_factory, rows, delimiter, encoding):
    """Python's csv writes the tables by RFC 4180; with tabs and bars, quotes are text."""
    path, text = tmp_path_factory.getbasetemp() / "found", io.StringIO(newline="")
    if delimiter not in QUOTED:
        rows = [[field.replace(delimiter, "") for field in row] for row in rows]
        text.write("".join(delimiter.join(row) + "\n" for row in [COLUMNS, *rows]))
    else:
        csv.writer(text, delimiter=delimiter).writerows([COLUMNS, *rows])
    start = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((start + text.getvalue()).encode(encoding))
    assert [list(row.values()) for _, row in read_table(path, COLUMNS, None)] == rows


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "column path is missing; the header has nothing"),
        (b"name,sentence\n", "column path is missing; the header has name, sentence"),
        (b"name;sentence\n1;2\n", "column path is missing; the header has name, sentence"),
        (b"path\tsentence\tpath\n", "column path is there twice; the header has path, sentence, path"),
        ("path\tsentence\n".encode("utf-16-le"), "no table of text in UTF-8, or in UTF-16 with a byte order mark"),
        (b"\xff\xfb\x90\x00" * 2**10, "no table of text in UTF-8"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, message):
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_table(path, ["path"], None))
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
