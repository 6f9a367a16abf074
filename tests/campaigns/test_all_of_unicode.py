"""Texts in columns are normalised as single ones are, whatever the characters. Takes 10 seconds."""

import sys
import unicodedata

import pyarrow as pa
import pytest

from hf_mlpl.data.text_arrays import TextBlock
from hf_mlpl.model.text import normalize_text


@pytest.mark.slow
def test_no_composition_of_unicode_is_missed():
    """Tests all code points, and all pairs of them that NFC composes."""
    texts = [character for code in range(sys.maxunicode) if not 0xD800 <= code < 0xE000 and (character := chr(code))]
    texts += [unicodedata.normalize("NFD", text) for text in texts]
    assert len({*texts}) > sys.maxunicode
    assert TextBlock(pa.chunked_array([texts])).texts.to_pylist() == list(map(normalize_text, texts))
    pairs = [normalize_text(f"a{text} {text}b") for text in texts]
    assert TextBlock(pa.chunked_array([pairs])).texts.to_pylist() == pairs
