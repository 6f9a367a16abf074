"""Downloads: a mirror from a Hub, and a release with Mozilla's own package from a server that answers like theirs."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from hf_mlpl.cli.main import main
from hf_mlpl.corpora.readers.common_voice import find_locales, read_common_voice
from hf_mlpl.corpora.readers.downloads import download_mirror, download_release
from hf_mlpl.corpora.reading import ReadingReport

from ..commands import ROOT
from ..packing import pack_parquet, pack_tar

ARCHIVE = "common-voice-scripted-speech-26-0-german-a1b2.tar.gz"


def test_a_mirror_on_the_hub(tone_corpus, tmp_path, local_hub, quick_python):
    release, api = tone_corpus / "common-voice", HfApi()
    pack_parquet(release, tmp_path / "mirror")
    (tmp_path / "mirror" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    api.create_repo("me/common_voice", repo_type="dataset", private=True)
    with pytest.raises(ValueError, match="me/common_voice: no Parquet files; try the revision refs/convert/parquet"):
        download_mirror("me/common_voice")
    commit = api.upload_folder(repo_id="me/common_voice", repo_type="dataset", folder_path=tmp_path / "mirror")
    api.delete_folder("de", "me/common_voice", repo_type="dataset")

    assert find_locales(download_mirror("me/common_voice")) == ["sv-SE"]
    folder = download_mirror("me/common_voice", commit.oid, ["sv-SE"])
    assert not list(folder.rglob("de/*")) and not list(folder.rglob("*.md"))
    folder = download_mirror("me/common_voice", revision=commit.oid)
    found, expected = (list(read_common_voice(root, "train", ReadingReport())) for root in (folder, release))
    assert [row | {"audio": None} for row in found] == [row | {"audio": None} for row in expected]
    before = len(local_hub.requests)
    download_mirror("me/common_voice", revision=commit.oid)
    assert not [request for request in local_hub.requests[before:] if "/resolve/" in request.path]

    script, data = ROOT / "recipes" / "prepare_data.py", tmp_path / "data"
    command = [quick_python, script, "--common-voice", "hf://datasets/me/common_voice", "--output", data]
    done = subprocess.run(command, env=local_hub.env, capture_output=True, text=True)
    assert done.returncode == 0 and "train.parquet: 32 utterances" in done.stdout, done.stderr


@pytest.mark.parametrize("name, revision", [("me/lost", None), ("me/common_voice", "lost"), ("a/b/c", None)])
def test_mirrors_that_are_not_there(name, revision, local_hub):
    HfApi().create_repo("me/common_voice", repo_type="dataset")
    with pytest.raises(ValueError, match=f"{name}.*: cannot be downloaded from the Hub: ") as error:
        download_mirror(name, revision)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("hangs_up", [False, True])
def test_errors_of_a_download_do_not_tell_the_queries_of_addresses(hangs_up, local_hub, monkeypatch):
    """A Hub redirects to signed addresses, which errors may contain, whether the server answers or not."""

    def answer(*_, **__):
        url = "https://cdn.example/a.parquet?X-Signature=secret&token=hf_secret"
        if hangs_up:
            raise HTTPError(f"no answer of {url} within 60 s")
        raise OSError(f"403 Forbidden for url '{url}'\n(Request ID: 1)")

    HfApi().create_repo("me/common_voice", repo_type="dataset")
    HfApi().upload_file(path_or_fileobj=b"", path_in_repo="a.parquet", repo_id="me/common_voice", repo_type="dataset")
    monkeypatch.setattr(HfApi, "snapshot_download", answer)
    with pytest.raises(ValueError, match="me/common_voice: cannot be downloaded .*cdn.example/a.parquet") as error:
        download_mirror("me/common_voice")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def data_collective(tone_corpus, tmp_path, monkeypatch):
    """Starts a server that answers like the service; yields the archive and the numbers of bytes that were sent."""
    content = pack_tar(tone_corpus / "common-voice", tmp_path / ARCHIVE, ["de"]).read_bytes()
    sent = []

    class Handler(BaseHTTPRequestHandler):
        def do(self):
            allowed = self.headers.get("Authorization") == "Bearer key"
            details = {"id": "abc", "filename": ARCHIVE, "sizeBytes": len(content), "checksum": "c0ffee"}
            if self.path == "/archive":
                first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                sent.append(len(content) - first)
                return self.answer(206 if first else 200, content[first:])
            if self.path == "/api/datasets/abc":
                return self.answer(200, json.dumps(details).encode())
            if self.path == "/api/datasets/abc/download" and allowed:
                address = f"http://127.0.0.1:{server.server_port}/archive"
                return self.answer(200, json.dumps(details | {"downloadUrl": address}).encode())
            if self.path == "/api/datasets/abc/download":
                return self.answer(403, b'{"message": "agree to the terms first"}')
            return self.answer(404, b"{}")

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("MDC_API_URL", f"http://127.0.0.1:{server.server_port}/api")
    monkeypatch.setenv("MDC_API_KEY", "key")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)  # their package looks for a file .env
    yield content, sent
    server.shutdown()
    server.server_close()


def test_a_release_from_mozilla(data_collective, tone_corpus, tmp_path, monkeypatch):
    pytest.importorskip("datacollective", reason="needs the extra datacollective")
    content, sent = data_collective
    path = download_release("abc", tmp_path / "downloads")
    assert path == tmp_path / "downloads" / ARCHIVE and path.read_bytes() == content
    assert download_release("abc", tmp_path / "downloads") == path and len(sent) == 1
    rows = list(read_common_voice(path, "dev", ReadingReport()))
    assert len(rows) == len(list(read_common_voice(tone_corpus / "common-voice", "dev", ReadingReport(), ["de"])))

    with pytest.raises(ValueError, match="datasets/lost: cannot be downloaded: .*not (found|exist)"):
        download_release("lost", tmp_path / "downloads")
    monkeypatch.setenv("MDC_API_KEY", "another's")
    with pytest.raises(ValueError, match="abc: cannot be downloaded: .*agree to the terms first") as error:
        download_release("abc", tmp_path / "elsewhere")
    assert "\n" not in str(error.value) and "another's" not in str(error.value)
    monkeypatch.delenv("MDC_API_KEY")
    with pytest.raises(ValueError, match="set MDC_API_KEY"):
        download_release("abc", tmp_path / "elsewhere")


def test_a_release_is_downloaded_and_prepared(data_collective, tmp_path, capsys):
    pytest.importorskip("datacollective", reason="needs the extra datacollective")
    command = ["prepare-data", "--download", "abc", "--output", str(tmp_path / "data")]
    for folder in ([], ["--common-voice", "hf://datasets/me/mirror"]):
        with pytest.raises(SystemExit):
            main([*command, *folder])
        assert "--download needs --common-voice FOLDER" in capsys.readouterr().err
    assert main([*command, "--common-voice", str(tmp_path / "releases")]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert f"downloaded: {tmp_path / 'releases' / ARCHIVE}\n" in printed
    assert "data/train.parquet: 32 utterances" in printed


def test_a_release_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datacollective", None)
    with pytest.raises(ValueError, match=r"pip install .*\[datacollective\]'; or download the archive"):
        download_release("abc", tmp_path)
