"""A row group of a Parquet file that pyarrow cannot return as one array. Takes 20 seconds, and 2.4 GB of the disk."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_mlpl.audio.reading import load_audio

from ..audio.test_parts import changed, encoded


@pytest.mark.slow
def test_a_row_group_over_2_gib(tmp_path):
    recording, count = encoded(np.zeros(2 * 10**6), "WAV"), 600  # 4 MB
    schema = pa.schema([("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    with pq.ParquetWriter(tmp_path / "a.parquet", schema, compression="none", write_batch_size=1) as writer:
        numbered = [changed(recording, 44, number, 2) for number in range(count)]
        pieces = [pa.array([{"bytes": row, "path": "a"}], type=schema[0].type) for row in numbered]
        writer.write_table(pa.table({"audio": pa.chunked_array(pieces)}, schema=schema), row_group_size=count)
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).total_byte_size > 2**31
    for number in (0, count - 1, 17):
        part = {"path": tmp_path / "a.parquet", "offset": number, "start": 0, "end": 0.01}
        assert load_audio(part)[0] == np.float32(number / 32768)
