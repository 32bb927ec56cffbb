"""Weights by address, against a server on the loopback that plays the hub and the hosts of files."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from vit_export.base.errors import InputError, OutputError
from vit_export.weights.remote import connections, download, transfer
from vit_export.weights.remote.fetch import Fetched, fetch, is_remote

BODY = bytes(range(256)) * 1200
OTHER = BODY[::-1]
DIGEST = hashlib.sha256(BODY).hexdigest()


@dataclass
class Answer:
    """What the server does with one path; `cut` ends the connection after that many bytes, `then` is what follows."""

    body: bytes = BODY
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = '"one"'
    kind: str = "application/octet-stream"
    cut: int | None = None
    ranges: bool = True
    token: str | None = None
    wait: threading.Event | None = None
    then: "Answer | None" = None


class Server(ThreadingHTTPServer):
    """Answers by path, and the requests it saw as (method, path, headers)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.seen = {}, []
        self.at = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of these tests."""

    def close(self):
        self.shutdown()
        self.server_close()

    def headers_of(self, number):
        return {name.lower(): value for name, value in self.seen[number][2].items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        path = urlsplit(self.path).path
        self.server.seen.append((self.command, path, dict(self.headers)))
        answer = self.server.answers.get(path, Answer(b"", 404))
        if answer.then:
            self.server.answers[path] = answer.then
        if answer.wait:
            answer.wait.wait(10)
        if answer.token and self.headers.get("Authorization") != f"Bearer {answer.token}":
            answer = Answer(b"", 401, {"X-Error-Code": "GatedRepo"})
        status, body, headers = answer.status, answer.body, {"Content-Type": answer.kind, **answer.headers}
        if answer.etag and status == 200:
            headers["ETag"] = answer.etag
            asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
            if self.headers.get("If-None-Match") == answer.etag:
                status, body = 304, b""
            elif asked and answer.ranges and condition == answer.etag:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if answer.cut is None else body[: answer.cut])
        self.close_connection = answer.cut is not None

    do_HEAD = do_GET


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def homeless(tmp_path, monkeypatch):
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    # Nothing here speaks TLS, and each client would spend a tenth of a second on the system's certificates.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n == "VIT_EXPORT_CACHE"]:
        monkeypatch.delenv(name)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def names(cache):
    """The files in the cache but for the lock."""
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock") if cache.exists() else []


def complete(cache):
    """The files in the cache that a later call would take for complete."""
    return [name for name in names(cache) if not name.endswith((".part", ".json"))]


def refused(location, cache, kind=InputError):
    with pytest.raises(kind) as caught:
        fetch(location, cache=cache)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("page", "meant"),
    [
        ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224."),
        ("google/vit-base-patch16-224/", "hf:google/vit-base-patch16-224."),
        ("google/vit/tree/main", "hf:google/vit@main."),
        ("google/vit/blob/main/model.safetensors", "https://huggingface.co/google/vit/resolve/main/model.safetensors."),
    ],
)
def test_a_page_of_the_hub_is_answered_by_what_it_shows(page, meant):
    with pytest.raises(InputError) as caught:
        fetch(f"https://huggingface.co/{page}")
    assert str(caught.value).endswith(f"give {meant}")


def test_what_counts_as_remote():
    assert all(map(is_remote, ("hf:a/b", "HF:a/b", "https://host/x", "http://localhost/x")))
    assert not any(map(is_remote, ("model.safetensors", "hf/x", "./https", "/tmp/hf:a/b", "file:///x", "C:\\x")))
    with pytest.raises(InputError, match="is no remote location"):
        fetch("model.safetensors")


def test_a_file_is_downloaded_whole_and_its_digest_recorded(server, cache):
    server.answers["/w/model.safetensors"] = Answer()
    heard = []
    fetched = fetch(f"{server.at}/w/model.safetensors", cache=cache, progress=lambda *parts: heard.append(parts))
    assert fetched.path.read_bytes() == BODY
    assert fetched.path.parent == cache
    assert fetched.path.name.endswith("-model.safetensors")
    location = f"{server.at}/w/model.safetensors"
    assert fetched.origin == {"location": location, "file": "model.safetensors", "sha256": DIGEST}
    assert heard[-1] == (len(BODY), len(BODY))
    assert names(cache) == [fetched.path.name, f"{fetched.path.name}.json"]


def test_the_cache_folder_follows_the_environment(server, tmp_path, monkeypatch):
    server.answers["/a.npz"] = Answer()
    assert fetch(f"{server.at}/a.npz").path.parent == tmp_path / "XDG_CACHE_HOME" / "vit-export"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch(f"{server.at}/a.npz").path.parent == tmp_path / "HOME" / ".cache" / "vit-export"
    monkeypatch.setenv("VIT_EXPORT_CACHE", str(tmp_path / "mine"))
    assert fetch(f"{server.at}/a.npz").path.parent == tmp_path / "mine"


def test_two_addresses_with_one_file_name_do_not_meet(server, cache):
    server.answers |= {"/a/model.npz": Answer(), "/b/model.npz": Answer(OTHER)}
    first, second = (fetch(f"{server.at}/{folder}/model.npz", cache=cache).path for folder in "ab")
    assert (first.read_bytes(), second.read_bytes()) == (BODY, OTHER)


@pytest.mark.parametrize("etag", ['"one"', 'W/"one"'])
def test_a_second_call_asks_only_whether_it_changed(server, cache, etag):
    server.answers["/a.npz"] = Answer(etag=etag)
    first = fetch(f"{server.at}/a.npz", cache=cache)
    assert fetch(f"{server.at}/a.npz", cache=cache) == first
    assert server.headers_of(1)["if-none-match"] == etag
    server.answers["/a.npz"] = Answer(OTHER, etag='"two"')
    assert fetch(f"{server.at}/a.npz", cache=cache).path.read_bytes() == OTHER


def test_a_right_digest_needs_no_second_request(server, cache):
    server.answers["/a.npz"] = Answer()
    first = fetch(f"{server.at}/a.npz#sha256={DIGEST.upper()}", cache=cache)
    assert first.origin["sha256"] == DIGEST
    assert fetch(f"{server.at}/a.npz#sha256={DIGEST}", cache=cache) == first
    assert len(server.seen) == 1


def test_a_wrong_digest_leaves_no_file(server, cache):
    server.answers["/a.npz"] = Answer()
    sentence = refused(f"{server.at}/a.npz#sha256={'0' * 64}", cache)
    assert DIGEST in sentence
    assert "0" * 64 in sentence
    assert names(cache) == []


@pytest.mark.parametrize("pin", ["", f"#sha256={DIGEST}"])
def test_a_damaged_cached_file_is_downloaded_again(server, cache, pin):
    server.answers["/a.npz"] = Answer()
    path = fetch(f"{server.at}/a.npz{pin}", cache=cache).path
    path.write_bytes(BODY[:-1] + b"x")
    notes = []
    assert fetch(f"{server.at}/a.npz{pin}", cache=cache, note=notes.append).path.read_bytes() == BODY
    assert "damaged" in notes[0]


def test_without_a_connection_the_cached_file_is_used_with_a_note(server, cache):
    server.answers["/a.npz"] = Answer()
    first = fetch(f"{server.at}/a.npz", cache=cache)
    server.answers["/a.npz"] = Answer(b"", 503)
    notes = []
    assert fetch(f"{server.at}/a.npz", cache=cache, note=notes.append) == first
    server.close()
    assert fetch(f"{server.at}/a.npz", cache=cache, note=notes.append) == first
    assert "(its server failed with status 503): the cached copy is used" in notes[0]
    assert "(no connection): the cached copy is used" in notes[1]
    assert "cannot be fetched (no connection)" in refused(f"{server.at}/b.npz", cache)
    assert "no connection" in refused(f"{server.at}/a.npz#sha256={'0' * 64}", cache)


CUT = 2 * download._CHUNK


def cut(then, **answer):
    """An answer that ends after `CUT` bytes and a few more, which are asked for again; `then` is what follows."""
    return Answer(cut=CUT + 100, then=then, **answer)


def test_a_cut_download_is_taken_up_where_it_stopped(server, cache):
    server.answers["/a.npz"] = cut(Answer())
    heard = []
    fetched = fetch(f"{server.at}/a.npz", cache=cache, progress=lambda *parts: heard.append(parts))
    assert server.headers_of(1)["range"] == f"bytes={CUT}-"
    assert server.headers_of(1)["if-range"] == '"one"'
    assert heard == sorted(heard)
    assert heard[-1] == (len(BODY), len(BODY))
    assert fetched.path.read_bytes() == BODY
    assert fetched.origin["sha256"] == DIGEST
    assert names(cache) == [fetched.path.name, f"{fetched.path.name}.json"]


def test_a_download_that_is_cut_again_and_again_says_so_and_leaves_nothing(server, cache, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0, 0, 0))
    server.answers["/a.npz"] = cut(Answer(cut=0))
    assert "cut after 0.1 of 0.3 MB: call again" in refused(f"{server.at}/a.npz", cache)
    assert len(server.seen) == 3
    assert names(cache) == []


def test_a_date_identifies_the_bytes_where_there_is_no_etag(server, cache):
    dated = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.answers["/a.npz"] = cut(Answer(etag=None, headers=dated), etag=None, headers=dated)
    assert fetch(f"{server.at}/a.npz", cache=cache).path.read_bytes() == BODY
    assert server.headers_of(1)["if-range"] == dated["Last-Modified"]


def test_a_file_that_changed_in_between_starts_over(server, cache):
    server.answers["/a.npz"] = cut(Answer(OTHER, etag='"two"'))
    assert fetch(f"{server.at}/a.npz", cache=cache).path.read_bytes() == OTHER
    assert server.headers_of(1)["range"] == f"bytes={CUT}-"


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(b"0" * 9, 206, {"ETag": '"two"', "Content-Range": f"bytes {CUT}-{CUT + 8}/{len(BODY)}"}),
        Answer(b"0" * 9, 206, {"ETag": '"one"', "Content-Range": f"bytes 5-13/{len(BODY)}"}),
        Answer(b"0" * 9, 206, {"ETag": '"one"'}),
        Answer(b"0" * 9, 206, {"ETag": '"one"', "Content-Range": f"bytes {CUT}-{CUT + 8}/150000"}),
        Answer(b"", 416),
    ],
)
def test_an_answer_that_does_not_continue_the_bytes_starts_over(server, cache, wrong, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (0, 0, 0))
    server.answers["/a.npz"] = cut(wrong)
    wrong.then = Answer(OTHER, etag='"two"')
    assert fetch(f"{server.at}/a.npz", cache=cache).path.read_bytes() == OTHER
    assert ["range" in server.headers_of(number) for number in (1, 2)] == [True, False]


def test_a_cut_download_that_cannot_resume_says_so_and_leaves_nothing(server, cache):
    server.answers["/a.npz"] = Answer(etag=None, cut=100_000)
    assert "call again to start over" in refused(f"{server.at}/a.npz", cache)
    assert names(cache) == []
    server.answers["/a.npz"] = Answer(etag=None)
    assert fetch(f"{server.at}/a.npz", cache=cache).path.read_bytes() == BODY
    assert "range" not in server.headers_of(1)


def test_more_bytes_than_announced_are_refused(server, cache):
    span = {"ETag": '"one"', "Content-Range": f"bytes {CUT}-{len(BODY) - 1}/{len(BODY)}"}
    server.answers["/a.npz"] = cut(Answer(BODY, 206, span))
    assert f"sent more than the {len(BODY)} bytes it announced" in refused(f"{server.at}/a.npz", cache)
    assert names(cache) == []


def test_a_file_beyond_the_largest_is_refused_unread(server, cache, monkeypatch):
    monkeypatch.setattr(transfer, "LARGEST", 100_000)
    server.answers["/a.npz"] = Answer()
    assert "expected at most 0.0001 GB" in refused(f"{server.at}/a.npz", cache)
    assert names(cache) == []


def test_a_full_disk_is_told_before_the_download(server, cache, monkeypatch):
    server.answers["/a.npz"] = Answer()
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=len(BODY) - 1))
    assert "no space left" in refused(f"{server.at}/a.npz", cache, OutputError)
    assert names(cache) == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(b"", 404), "There is no file at"),
        (Answer(b"", 403), "refuses access (status 403)"),
        (Answer(b"", 401), "refuses access (status 401)"),
        (Answer(b"", 500), "its server failed with status 500"),
        (Answer(b"", 204), "answers with status 204, expected 200"),
        (Answer(b"<html>", kind="text/html; charset=utf-8"), "is a web page (text/html), expected a file"),
        (Answer(headers={"Content-Encoding": "gzip"}), "comes compressed (gzip)"),
        (Answer(b"", 302, {"Location": "file:///etc/hostname"}), "redirects to file:///etc/hostname, which is refused"),
        (Answer(b"", 302, {"Location": "ftp://127.0.0.1/x"}), "redirects to ftp://127.0.0.1/x, which is refused"),
        (
            Answer(b"", 301, {"Location": "http://u:secret@host.invalid/x?t=secret"}),
            "redirects to http://host.invalid/x,",
        ),
        (Answer(b"", 307, {"Location": "/a.npz"}), "redirects more than 5 times"),
    ],
)
def test_what_is_not_the_file_is_one_sentence_and_no_file(server, cache, answer, sentence):
    server.answers["/a.npz"] = answer
    given = refused(f"{server.at}/a.npz", cache)
    assert sentence in given
    assert "secret" not in given
    assert names(cache) == []


def test_redirects_on_the_loopback_are_followed(server, cache):
    server.answers["/a.npz"] = Answer(b"", 302, {"Location": "/b"})
    server.answers["/b"] = Answer(b"", 302, {"Location": f"{server.at}/c?signature=secret"})
    server.answers["/c"] = Answer()
    fetched = fetch(f"{server.at}/a.npz", cache=cache)
    assert fetched.path.read_bytes() == BODY
    assert fetched.origin["location"] == f"{server.at}/a.npz"


def test_https_is_never_left_for_http(server):
    address = connections.address_of("https://host.invalid/a.npz")
    with pytest.raises(InputError, match=r"redirects to http://127\.0\.0\.1/b, which is refused"):
        connections.redirected(address.url, "http://127.0.0.1/b", address)
    assert connections.redirected(address.url, "https://other.invalid/b", address) == "https://other.invalid/b"


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("http://host.invalid/a.npz", "is plain http"),
        ("http://127.0.0.1.host.invalid/a.npz", "is plain http"),
        ("http://127.0.0.1@host.invalid/a.npz", "http://host.invalid/a.npz is plain http"),
        ("https://", "is not a URL"),
        ("https://host.invalid:secret/a", "is not a URL"),
        ("https://host.invalid/a#sha256=12", "followed by '#' and 9 characters"),
        ("https://host.invalid/a#", "followed by '#' and 0 characters"),
        ("https://host.invalid/a\n", "is not a URL"),
        ("https://.invalid/a", "is not a URL"),
        (f"https://{'a' * 70}.invalid/a", "cannot be fetched (no connection)"),
    ],
)
def test_an_address_that_will_not_do_is_refused_unasked(cache, location, sentence):
    given = refused(location, cache)
    assert sentence in given
    assert "secret" not in given
    assert names(cache) == []


def test_credentials_are_used_but_never_shown(server, cache):
    host = server.at.removeprefix("http://")
    location = f"http://user:secret@{host}/a.npz?token=secret"
    assert "secret" not in refused(location, cache)
    assert server.headers_of(0)["authorization"].startswith("Basic ")
    server.answers["/a.npz"] = Answer(b"", 302, {"Location": f"http://localhost:{host.rpartition(':')[2]}/b"})
    server.answers["/b"] = Answer()
    fetched, notes = fetch(location, cache=cache), []
    assert "authorization" not in server.headers_of(2)  # another host
    assert fetched.origin["location"] == f"http://{host}/a.npz"
    server.close()
    assert fetch(location, cache=cache, note=notes.append) == fetched
    assert "secret" not in str(fetched) + notes[0] + "".join(p.read_text() for p in cache.glob("*.json"))


def test_a_cache_folder_that_cannot_be_written_is_one_sentence(server, tmp_path):
    server.answers["/a.npz"] = Answer()
    (tmp_path / "file").write_text("here first")
    sentence = refused(f"{server.at}/a.npz", tmp_path / "file", OutputError)
    assert f"{tmp_path / 'file'} cannot be written" in sentence
    assert "VIT_EXPORT_CACHE" in sentence


def test_proxy_settings_that_do_not_work_are_one_sentence(cache, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:1")
    assert "check HTTPS_PROXY" in refused("https://host.invalid/a.npz", cache)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_of_the_environment_are_those_that_count(server, cache, tmp_path, monkeypatch, name):
    for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    assert connections.authorities() == str(tmp_path)
    server.answers["/a.npz"] = Answer()
    (tmp_path / "damaged").write_text("no certificate")
    for wrong in (tmp_path / "missing", tmp_path / "damaged"):
        monkeypatch.setenv(name, str(wrong))
        sentence = refused(f"{server.at}/a.npz", cache)
        assert f"{wrong}, which {name} names, holds no certificates" in sentence
    assert server.seen == []


def test_a_server_that_falls_silent_is_one_sentence(server, cache, monkeypatch):
    monkeypatch.setattr(download, "_READ_SECONDS", 0.2)
    server.answers["/a.npz"] = Answer(wait=threading.Event())
    assert "cannot be fetched (no answer in time)" in refused(f"{server.at}/a.npz", cache)
    server.answers["/a.npz"].wait.set()


def _fetch_in_a_process(location, cache, told):
    told.put(fetch(location, cache=cache, note=told.put))


def test_two_processes_share_one_download(server, cache):
    hold = threading.Event()
    server.answers["/a.npz"] = Answer(wait=hold)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    processes = [context.Process(target=_fetch_in_a_process, args=(f"{server.at}/a.npz", cache, told)) for _ in "ab"]
    for process in processes:
        process.start()
    assert "Another process is downloading" in told.get(timeout=20)
    hold.set()
    first, second = told.get(timeout=20), told.get(timeout=20)
    for process in processes:
        process.join(10)
    assert first == second
    assert first.path.read_bytes() == BODY
    assert "if-none-match" in server.headers_of(1)  # the second asked, and downloaded nothing
    assert len(server.seen) == 2
    assert complete(cache) == [first.path.name]


# huggingface_hub reads its environment once, at import: each test's fetches run in processes of their own.

COMMIT, EARLIER = "a" * 40, "b" * 40
CONFIG = json.dumps({"model_type": "vit"}).encode()
SHARDS = {"model-1.safetensors": BODY, "model-2.safetensors": OTHER}
FETCHES = """
import json, os, sys
from pathlib import Path
from vit_export.weights.remote.fetch import fetch
from vit_export.base.errors import VitExportError
early = [name for name in ("huggingface_hub", "httpx2", "pooch", "requests", "filelock") if name in sys.modules]
results = {}
for location, environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    notes, heard = [], []
    try:
        got = fetch(location, progress=lambda *parts: heard.append(parts), note=notes.append)
        files = {p.name: p.read_bytes().hex() for p in got.path.iterdir()}
        result = {"files": files, "path": str(got.path), "origin": got.origin}
    except VitExportError as error:
        result = {"kind": type(error).__name__, "error": str(error)}
    results[location] = {**result, "notes": notes, "heard": heard[-1:], "early": early}
print(json.dumps(results))
"""


def index(names):
    return json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(names)}}).encode()


def publish(server, repository, files, *, revision="main", commit=COMMIT, token=None, listed=True):
    """One revision of a repository, as the hub answers for it."""
    siblings = [{"rfilename": name, "size": len(body)} for name, body in files.items()]
    listing = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
    for at in (revision, commit):
        if listed:
            server.answers[f"/api/models/{repository}/revision/{at.replace('/', '%2F')}"] = Answer(listing, etag=None)
        for name, body in files.items():
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            answer = Answer(body, etag=etag, headers={"X-Repo-Commit": commit}, token=token)
            server.answers[f"/{repository}/resolve/{at.replace('/', '%2F')}/{name}"] = answer


def fetches(home, endpoint, *asked, **environment):
    """What `fetch` gave for each location (or pair of location and environment), in one process."""
    pairs = [(each, {}) if isinstance(each, str) else each for each in asked]
    kept = {k: v for k, v in os.environ.items() if not (k.startswith("HF_") or k.lower().endswith("_proxy"))}
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    kept |= {"SSL_CERT_DIR": str(home.parent), **environment}  # see `homeless`
    command = [sys.executable, "-W", "ignore", "-c", FETCHES, json.dumps(pairs)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Every online case in one process, then the cached ones offline and without a connection."""
    server, home = Server(), tmp_path_factory.mktemp("hub")
    vit = {"config.json": CONFIG, "preprocessor_config.json": b"{}", "model.safetensors": BODY}
    publish(server, "o/single", {**vit, "pytorch_model.bin": b"x", "run.py": b"x", "README.md": b"x"})
    publish(server, "o/single", vit | {"model.safetensors": OTHER}, revision="v1", commit=EARLIER)
    sharded = {"config.json": CONFIG, "model.safetensors.index.json": index([*SHARDS, *SHARDS]), **SHARDS}
    publish(server, "o/sharded", {**sharded, "model-3.safetensors": b"x"}, revision="refs/pr/1")
    publish(server, "o/pickled", {"config.json": CONFIG, "pytorch_model.bin": b"x"})
    publish(server, "o/empty", {"README.md": b"x"})
    publish(server, "o/gated", vit, token="letmein")
    hostile = {"up": "../model.safetensors", "root": "/etc/x.safetensors", "deep": "a/b.safetensors", "bin": "x.bin"}
    for kind, name in hostile.items():
        publish(server, f"o/{kind}", {"config.json": CONFIG, "model.safetensors.index.json": index([name]), name: b"x"})
    publish(server, "o/lacking", {"config.json": CONFIG, "model.safetensors.index.json": index(["m.safetensors"])})
    publish(server, "o/garbled", {"config.json": CONFIG, "model.safetensors.index.json": b"[]"})
    publish(server, "o/odd", {"config.json": CONFIG})
    server.answers["/api/models/o/odd/revision/main"] = Answer(b"<html>", kind="text/html")
    server.answers["/api/models/o/single/revision/v9"] = Answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
    server.answers["/api/models/o/none/revision/main"] = Answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
    server.answers["/api/models/o/private/revision/main"] = Answer(b"", 401)
    server.answers["/api/models/o/forbidden/revision/main"] = Answer(b"", 403)
    server.answers["/api/models/o/busy/revision/main"] = Answer(b"", 429)
    server.answers["/api/models/o/broken/revision/main"] = Answer(b"", 502)
    asked = ["single", "single@v1", f"single@{COMMIT}", "single@v9", "sharded@refs/pr/1", "pickled", "empty", "gated"]
    asked += [*hostile, "lacking", "garbled", "odd", "none", "private", "forbidden", "busy", "broken"]
    admitted = ("hf:o/gated@main", {"HF_TOKEN": "letmein"})  # the last: its environment stays
    online = fetches(home, server.at, *(f"hf:o/{name}" for name in asked), admitted)
    seen = list(server.seen)
    stored = ("hf:o/single", "hf:o/single@v1", "hf:o/sharded@refs/pr/1", "hf:o/empty", "hf:o/unheard")
    offline = fetches(home, server.at, *stored, HF_HUB_OFFLINE="1")
    assert len(server.seen) == len(seen)
    server.close()
    cut_off = fetches(home, f"http://127.0.0.1:{closed_port()}", *stored)
    return {"online": online, "seen": seen, "offline": offline, "cut off": cut_off}


def test_a_repository_becomes_a_folder_with_only_what_is_needed(hub):
    got = hub["online"]["hf:o/single"]
    assert got["files"] == {
        "config.json": CONFIG.hex(),
        "preprocessor_config.json": b"{}".hex(),
        "model.safetensors": BODY.hex(),
    }
    assert got["origin"] == {"location": "hf:o/single", "revision": COMMIT}
    assert got["heard"] == [[len(BODY), len(BODY)]]
    assert not [path for _, path, _ in hub["seen"] if path.endswith((".bin", ".py", ".md"))]
    assert got["early"] == []  # the module alone loads neither library


def test_a_sharded_repository_brings_the_shards_of_its_index(hub):
    got = hub["online"]["hf:o/sharded@refs/pr/1"]
    assert sorted(got["files"]) == ["config.json", *SHARDS, "model.safetensors.index.json"]
    assert all(got["files"][name] == body.hex() for name, body in SHARDS.items())
    assert got["heard"] == [[len(BODY) + len(OTHER)] * 2]


def test_a_revision_is_pinned_and_recorded(hub):
    tag, commit = hub["online"]["hf:o/single@v1"], hub["online"][f"hf:o/single@{COMMIT}"]
    assert tag["origin"] == {"location": "hf:o/single@v1", "revision": EARLIER}
    assert tag["files"]["model.safetensors"] == OTHER.hex()
    assert commit["origin"]["revision"] == COMMIT
    assert commit["files"]["model.safetensors"] == BODY.hex()
    asked = {path for _, path, _ in hub["seen"]}
    assert f"/o/single/resolve/{EARLIER}/model.safetensors" in asked
    assert "/o/single/resolve/v1/model.safetensors" not in asked  # the tag may move between two files


def test_a_token_opens_a_gated_repository(hub):
    assert hub["online"]["hf:o/gated@main"]["files"]["model.safetensors"] == BODY.hex()


@pytest.mark.parametrize("how", ["offline", "cut off"])
def test_without_the_hub_the_cached_copy_is_used_with_a_note(hub, how):
    why = {"offline": "HF_HUB_OFFLINE is set", "cut off": "no connection"}[how]
    for location in ("hf:o/single", "hf:o/single@v1", "hf:o/sharded@refs/pr/1"):
        then, now = hub["online"][location], hub[how][location]
        assert (now["files"], now["origin"]) == (then["files"], then["origin"])
        assert f"cannot be asked ({why})" in now["notes"][0]
    assert "has no preprocessor_config.json" in hub[how]["hf:o/sharded@refs/pr/1"]["notes"][1]
    for location in ("hf:o/empty", "hf:o/unheard"):
        assert hub[how][location]["error"] == (
            f"{location} is not in the cache, or not all of it, and the hub cannot be asked ({why}): fetch it once "
            "with a connection, and without HF_HUB_OFFLINE."
        )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pickled", "holds no safetensors, only pytorch_model.bin"),
        ("pickled", "hf:o/pickled@refs/pr/1"),
        ("empty", "holds no model.safetensors"),
        ("gated", "is gated: accept its terms on its page at the hub, then set HF_TOKEN"),
        ("none", "The hub has no repository o/none, or it is private"),
        ("private", "(status 401): set HF_TOKEN to an access token that may read it"),
        ("forbidden", "refused hf:o/forbidden (status 403): set HF_TOKEN"),
        ("busy", "(status 429): wait a while"),
        ("broken", "its server failed with status 502"),
        ("single@v9", "o/single has no revision 'v9': expected one of its branches, tags or commits"),
        ("up", "names '../model.safetensors' as a shard"),
        ("root", "names '/etc/x.safetensors' as a shard"),
        ("deep", "names 'a/b.safetensors' as a shard"),
        ("bin", "names 'x.bin' as a shard"),
        ("lacking", "lacks m.safetensors, which its model.safetensors.index.json names"),
        ("garbled", "is not readable: expected JSON with a weight_map"),
        ("odd", "o/odd could not be looked up, no hub answered"),
    ],
)
def test_what_the_hub_cannot_give_is_one_sentence(hub, name, sentence):
    got = hub["online"][f"hf:o/{name}"]
    assert got["kind"] == "InputError"
    assert sentence in got["error"]
    assert got["error"].endswith(".")
    assert "\n" not in got["error"]
    if name in ("up", "root", "deep", "bin"):
        assert not [
            path for _, path, _ in hub["seen"] if f"/o/{name}/" in path and path.endswith((".safetensors", ".bin"))
        ]


@pytest.mark.parametrize(
    "name", ["", "vit", "a/b/c", "a/../b", "a/b@", "a/b@../x", "a/b@-x", "a--b/c", "a/b.git", "a b/c", "/b", "a/b?c"]
)
def test_a_malformed_repository_is_refused_unasked(name, cache):
    assert "names no hub repository: expected hf:owner/name" in refused(f"hf:{name}", cache)


def test_a_hub_cache_that_cannot_be_written_is_one_sentence(server, tmp_path):
    publish(server, "o/single", {"model.safetensors": BODY})
    (tmp_path / "file").write_text("here first")
    got = fetches(tmp_path / "file", server.at, "hf:o/single")["hf:o/single"]
    assert got["kind"] == "OutputError"
    assert "set HF_HOME to a folder that can be" in got["error"]


def test_what_fetch_returns_can_be_kept_as_json():
    assert json.loads(json.dumps(Fetched(Path("x"), {"location": "hf:a/b"}).origin)) == {"location": "hf:a/b"}
