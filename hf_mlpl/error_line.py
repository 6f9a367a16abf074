"""Writes an error as one line, for messages and reports that have one line for each problem."""

import os


def error_line(error: BaseException, with_type: bool = False) -> str:
    """Returns an error's text in one line, or the name of its type where it has no text.

    Args:
        with_type: puts the type's name before the text, for errors whose text alone does not say what went wrong.
    """
    text, kind = " ".join(str(error).split()), type(error).__name__
    return f"{kind}: {text}" if text and with_type else text or kind


def missing(path: str | os.PathLike[str]) -> str:
    """Explains why there is no file: a link may lead to nothing, as those of git-annex and DVC before a download."""
    if os.path.islink(path):
        return f"is a link to {os.readlink(os.fspath(path))}, which is not there"
    return "no such file"


def reason(error: Exception) -> str:
    """Returns an error's text in one line, without the number and path that an error of the operating system has."""
    number, text = getattr(error, "errno", None), getattr(error, "strerror", None)
    if text and not number:  # of object storage
        return text
    if isinstance(error, FileNotFoundError):
        return missing(error.filename or "")
    return os.strerror(number) if number else error_line(error)
