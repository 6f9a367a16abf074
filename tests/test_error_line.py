"""Errors as one line, whatever their text is."""

import pytest

from hf_mlpl.error_line import error_line


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
