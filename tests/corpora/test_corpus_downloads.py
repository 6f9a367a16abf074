"""Downloads of LibriSpeech and VoxPopuli from a server that breaks off, ignores ranges, or sends damaged bytes."""

import gzip
import hashlib
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers import downloads
from hf_mlpl.corpora.readers.downloads import download_published, published_files
from hf_mlpl.corpora.readers.voxpopuli import CODES, read_voxpopuli
from hf_mlpl.corpora.reading import ReadingReport
from hf_mlpl.data.utterances import read_utterances

from .test_corpora import write_clip

YEARS = list(range(2009, 2021))
DEV_CLEAN = b"the archive dev-clean " * 5000


class Server:
    """Serves `files`; `cuts` are the bytes after which it closes the connections of the next requests."""

    def __init__(self):
        self.files, self.requests = {}, []
        self.cuts, self.statuses, self.knows_ranges, self.answers_head = [], [], True, True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                if not server.answers_head:
                    return self.send_error(405)
                if (content := server.files.get(self.path)) is None:
                    return self.send_error(404)
                self.start(200, len(content))

            def do_GET(self):
                wanted = self.headers.get("Range")
                server.requests.append((self.path, wanted))
                content = server.files.get(self.path)
                if server.statuses or content is None:
                    return self.send_error(server.statuses.pop(0) if server.statuses else 404)
                first = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.knows_ranges else 0
                if first and first >= len(content):
                    return self.send_error(416)
                self.start(
                    206 if first else 200, len(content) - first, f"bytes {first}-{len(content) - 1}/{len(content)}"
                )
                self.wfile.write(content[first:][: server.cuts.pop(0) if server.cuts else None])

            def start(self, status, size, content_range=None):
                self.send_response(status)
                self.send_header("Content-Length", str(size))
                if status == 206:
                    self.send_header("Content-Range", content_range)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what a broken connection may lose
    monkeypatch.setattr(downloads, "LIBRISPEECH_URL", f"{server.url}/12")
    monkeypatch.setattr(downloads, "VOXPOPULI_URL", f"{server.url}/voxpopuli")
    monkeypatch.setitem(downloads.LIBRISPEECH_MD5, "dev-clean", hashlib.md5(DEV_CLEAN).hexdigest())
    server.files["/12/dev-clean.tar.gz"] = DEV_CLEAN
    yield server
    server.http.shutdown()
    server.http.server_close()


def archives_of(subset: str) -> set[str]:
    """The archives of a subset as `voxpopuli/download_audios.py` lists them."""
    if subset.endswith("_v2"):
        languages, years = [subset.split("_")[0]], [*YEARS, *(f"{year}_2" for year in YEARS)]
    elif subset in CODES:
        languages, years = [subset], YEARS
    else:
        languages = {"asr": ["original"]}.get(subset, CODES)
        years = {"400k": [*YEARS, *(f"{year}_2" for year in YEARS)], "10k": [2019, 2020]}.get(subset, YEARS)
    return {f"{language}_{year}.tar" for language in languages for year in years}


def test_names_of_files():
    for subset in ("400k", "100k", "10k", "sl", "sl_v2"):
        table, *archives = published_files(f"voxpopuli/{subset}")
        assert table.url == "https://dl.fbaipublicfiles.com/voxpopuli/annotations/unlabelled_v2.tsv.gz"
        assert {file.url.rpartition("/")[2] for file in archives} == archives_of(subset)
        assert archives[0].url.startswith("https://dl.fbaipublicfiles.com/voxpopuli/audios/")
    table, *archives = published_files("voxpopuli/asr/hr")
    assert table.place == "annotations/asr/asr_hr.tsv.gz"
    assert {file.url.rpartition("/")[2] for file in archives} == archives_of("asr")
    assert published_files("voxpopuli/10k_sd/2019")[0].place == "annotations/unlabelled_sd.tsv.gz"
    places = [file.place for file in published_files("voxpopuli/hr_v2/2012")[1:]]
    assert places == ["raw_audios/hr_2012.tar", "raw_audios/hr_2012_2.tar"]
    (file,) = published_files("librispeech/test-clean")
    assert file.url == "https://www.openslr.org/resources/12/test-clean.tar.gz"
    for name, known in {
        "librispeech/dev": "'dev'; there are dev-clean, .*train-other-500",
        "voxpopuli/sv-SE": "no subset 'sv-SE'; there are 10k, .*sv",
        "voxpopuli/sl/2021": "no year '2021'; there are 2009, .*2020",
        "voxpopuli/10k/2018": "no year '2018'; there are 2019, 2020",
        "voxpopuli/asr/bg": "no language 'bg'; there are en, .*en_accented",
        "mls/german": "no corpus 'mls'",
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: .*{known}"):
            published_files(name)


@pytest.mark.parametrize("answers_head", [True, False])
def test_a_download_goes_on_where_it_was_cut(server, tmp_path, answers_head):
    server.answers_head, server.cuts = answers_head, [30_000, 0, 20_000]
    (path,) = download_published("librispeech/dev-clean", tmp_path / "new")
    assert path == tmp_path / "new" / "dev-clean.tar.gz" and path.read_bytes() == DEV_CLEAN
    assert [start for _, start in server.requests] == [None, "bytes=30000-", "bytes=30000-", "bytes=50000-"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert download_published("librispeech/dev-clean", path.parent) == [path.parent]  # as its reader finds the split
    assert len(server.requests) == 4


def test_a_killed_download_is_continued(server, tmp_path):
    part = tmp_path / "dev-clean.tar.gz.part"
    part.write_bytes(DEV_CLEAN[:1000])
    server.statuses = [503, 503]
    (path,) = download_published("librispeech/dev-clean", tmp_path)
    assert path.read_bytes() == DEV_CLEAN and server.requests[-1][1] == "bytes=1000-"

    path.rename(part)  # killed before it was renamed
    server.requests.clear()
    assert download_published("librispeech/dev-clean", tmp_path) == [path] and not server.requests

    path.unlink()
    part.write_bytes(b"x" * 500)
    server.knows_ranges = False
    download_published("librispeech/dev-clean", tmp_path)
    assert path.read_bytes() == DEV_CLEAN

    for answers_head in (True, False):
        server.answers_head = answers_head
        path.unlink()
        part.write_bytes(DEV_CLEAN + b"of another file")
        server.knows_ranges = True
        download_published("librispeech/dev-clean", tmp_path)
        assert path.read_bytes() == DEV_CLEAN and not part.exists()


def test_what_cannot_be_downloaded(server, tmp_path, monkeypatch):
    server.files["/12/dev-clean.tar.gz"] = DEV_CLEAN[:-1] + b"?"
    with pytest.raises(ValueError, match="dev-clean.tar.gz: came damaged, with the MD5 .* same command again"):
        download_published("librispeech/dev-clean", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"12/test-clean.tar.gz: the server has no such file \(404\)"):
        download_published("librispeech/test-clean", tmp_path)
    server.answers_head = False
    with pytest.raises(ValueError, match="12/test-clean.tar.gz: cannot be downloaded: .*404") as error:
        download_published("librispeech/test-clean", tmp_path)
    assert "\n" not in str(error.value)
    server.answers_head, server.statuses = True, [500] * 50
    server.files["/12/dev-clean.tar.gz"] = DEV_CLEAN
    with pytest.raises(ValueError, match="dev-clean.tar.gz: cannot be downloaded: .*500"):
        download_published("librispeech/dev-clean", tmp_path)
    server.statuses = []
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**5}))
    with pytest.raises(ValueError, match=r"has room for 0.0 GB, and librispeech/dev-clean needs 0.0 GB"):
        download_published("librispeech/dev-clean", tmp_path)
    (tmp_path / "dev-clean.tar.gz.part").write_bytes(DEV_CLEAN[: len(DEV_CLEAN) // 2])  # the rest has room
    assert download_published("librispeech/dev-clean", tmp_path)[0].read_bytes() == DEV_CLEAN
    monkeypatch.undo()
    monkeypatch.setattr(downloads, "LIBRISPEECH_URL", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match="127.0.0.1:1/dev-other.tar.gz: cannot be downloaded: ") as error:
        download_published("librispeech/dev-other", tmp_path)
    assert "\n" not in str(error.value)


def test_downloaded_corpora_are_prepared(server, tone_corpus, tmp_path, monkeypatch, capsys):
    voxpopuli, chapter = tone_corpus / "voxpopuli", tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    with tarfile.open(tmp_path / "sv_2020.tar", "w") as tar:
        tar.add(voxpopuli / "raw_audios" / "sv" / "2020", "sv/2020")
    table = next((voxpopuli / "annotations").glob("unlabelled_v2.tsv.gz"))
    other_year = gzip.compress(b"20190116-0900-PLENARY_sv\t0\t0.0\t1.5\n")
    server.files["/voxpopuli/annotations/unlabelled_v2.tsv.gz"] = table.read_bytes() + other_year
    server.files["/voxpopuli/audios/sv_2020.tar"] = (tmp_path / "sv_2020.tar").read_bytes()
    write_clip(chapter / "84-121123-0000.flac", 0.5)
    (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n")
    with tarfile.open(tmp_path / "dev-clean.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "LibriSpeech", "LibriSpeech")
    content = server.files["/12/dev-clean.tar.gz"] = (tmp_path / "dev-clean.tar.gz").read_bytes()
    monkeypatch.setitem(downloads.LIBRISPEECH_MD5, "dev-clean", hashlib.md5(content).hexdigest())

    command = ["prepare-data", "--download", "voxpopuli/sv/2020", "librispeech/dev-clean"]
    command += ["--output", str(tmp_path / "data"), "--voxpopuli", str(tmp_path / "vp")]
    with pytest.raises(SystemExit):
        main(command)
    assert "--download needs --librispeech FOLDER" in capsys.readouterr().err and not server.requests
    command += ["--librispeech", str(tmp_path / "ls")]
    assert main(command) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    for name in ("vp/annotations/unlabelled_v2.tsv.gz", "vp/raw_audios/sv_2020.tar", "ls/dev-clean.tar.gz"):
        assert f"downloaded: {tmp_path / name}\n" in printed
    (row,) = read_utterances([tmp_path / "data" / "dev.parquet"])
    assert (row["id"], row["text"], row["language"]) == ("84-121123-0000", "GO DO YOU HEAR", "en")
    found = read_utterances([tmp_path / "data" / "unlabelled.parquet"])
    expected = [row for row in read_voxpopuli(voxpopuli, ReadingReport()) if row["id"].startswith("2020")]
    assert sorted(found["id"]) == sorted(row["id"] for row in expected) and expected
    assert "1 segments are not read, because their archives are not there: sv_2019.tar" in printed
    before = len(server.requests)
    assert main(command) == 0 and len(server.requests) == before
    main([*command[:2], "voxpopuli/sl/2031", *command[4:]])
    assert "voxpopuli/sl/2031: no year '2031'; there are 2009" in capsys.readouterr().err
