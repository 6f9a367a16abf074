"""Errors become one line, whatever their text is."""

import pytest

from hf_mlpl.error_line import error_line, reason


@pytest.mark.parametrize(
    ("error", "line", "line_with_type"),
    [
        (ValueError("a\n  b\r\n\tc "), "a b c", "ValueError: a b c"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (KeyError("\n"), "'\\n'", "KeyError: '\\n'"),
        (
            OSError(2, "No such file", "x"),
            "[Errno 2] No such file: 'x'",
            "FileNotFoundError: [Errno 2] No such file: 'x'",
        ),
    ],
)
def test_it_is_one_line(error, line, line_with_type):
    assert (error_line(error), error_line(error, with_type=True)) == (line, line_with_type)


def test_reasons_have_neither_number_nor_path():
    assert reason(FileNotFoundError(2, "No such file or directory", "x")) == "no such file"
    assert reason(OSError(5, "lost", "x")) == "Input/output error"
    assert reason(ValueError("a\nb")) == "a b"
