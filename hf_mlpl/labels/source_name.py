"""Names who has made a label, and how, for the column `source`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..data.heard_speech import HeardSpeech

if TYPE_CHECKING:
    from ..inference.label_search import LabelSearch


def source_name(teacher: str, heard: HeardSpeech | None = None, search: LabelSearch | None = None) -> str:
    """Returns a teacher's revision, with all that makes other labels of it: how it hears, and how texts are found."""
    return "+".join([teacher, *(part.name for part in (heard, search) if part is not None)])
