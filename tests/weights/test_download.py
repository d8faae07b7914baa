from __future__ import annotations

import dataclasses
import errno
import hashlib
import shutil
import threading
from types import SimpleNamespace

import pytest
from hub import COMMIT
from huggingface_hub import constants

from lib_layerdiffusion.errors import WeightsError
from lib_layerdiffusion.weights import Catalogue, fetch, find_in_cache, transfer

FILE = Catalogue.load()["layer_xl_transparent_attn"]


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_arrives_whole_and_alone(hub, content, tmp_path):
    folder = tmp_path / "models" / "layer_model"
    seen: list[tuple[int, int | None]] = []
    path = fetch(FILE, folder, progress=lambda done, total: seen.append((done, total)))
    assert path == folder / FILE.file_name
    assert path.read_bytes() == content
    assert everything_in(folder) == [FILE.file_name]
    assert seen[-1] == (len(content), len(content))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_is_there_is_not_fetched_again(hub, content, tmp_path):
    fetch(FILE, tmp_path)
    fetch(FILE, tmp_path)
    assert hub.downloads == 1


def test_a_connection_that_breaks_is_taken_up_again(hub, content, tmp_path):
    hub.breaks = [20_000, 30_000]
    assert fetch(FILE, tmp_path).read_bytes() == content
    assert hub.ranges[0] == 0
    assert all(start > 0 for start in hub.ranges[1:])


def test_an_interrupted_download_leaves_no_half_file_and_goes_on_later(hub, content, tmp_path):
    hub.breaks = [50_000] + [0] * 60
    with pytest.raises(WeightsError, match="could not be fetched"):
        fetch(FILE, tmp_path)
    assert not (tmp_path / FILE.file_name).exists()
    left = sum(path.stat().st_size for path in tmp_path.glob(".*.part"))
    assert 40_000 < left <= 50_000
    hub.breaks = []
    hub.ranges.clear()
    assert fetch(FILE, tmp_path).read_bytes() == content
    assert hub.ranges[0] == left
    assert everything_in(tmp_path) == [FILE.file_name]


def test_two_at_once_fetch_one_file(hub, content, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(fetch(FILE, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / FILE.file_name] * 3
    assert results[0].read_bytes() == content
    assert hub.downloads == 1


@pytest.mark.parametrize("offline", ["environment", "constant"])
def test_offline_says_file_folder_and_address(hub, tmp_path, monkeypatch, offline):
    if offline == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE") as refused:
        fetch(FILE, tmp_path)
    assert f"{hub.endpoint}/LayerDiffusion/layerdiffusion-v1/resolve/main/{FILE.file_name}" in str(refused.value)
    assert f"put it into {tmp_path}." in str(refused.value)
    assert hub.downloads == 0
    assert not list(tmp_path.glob("*.download"))
    assert not list(tmp_path.glob(".*.download"))


def test_no_network_says_so(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="no connection to the server"):
        fetch(FILE, tmp_path)
    assert not (tmp_path / FILE.file_name).exists()


def test_an_endpoint_that_is_given_wins_over_the_variable(hub, content, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch(FILE, tmp_path, endpoint=f"{hub.endpoint}/").read_bytes() == content


def test_a_file_that_the_server_lacks(hub, tmp_path):
    missing = dataclasses.replace(FILE, name="layer_xl_unheard_of")
    with pytest.raises(
        WeightsError, match=r"layer_xl_unheard_of\.safetensors could not be fetched \(the server answers 404"
    ):
        fetch(missing, tmp_path)


def test_a_token_is_asked_for_and_used(hub, content, tmp_path, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(WeightsError, match="HF_TOKEN"):
        fetch(FILE, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(FILE, tmp_path).read_bytes() == content


def test_a_full_disk_is_noticed_before_the_download(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=1000))
    with pytest.raises(WeightsError, match=r"needs \d+ MiB and the disk has 0 MiB left"):
        fetch(FILE, tmp_path)
    assert hub.downloads == 0


@pytest.mark.parametrize("answer", [b"<html>sign in to this network</html>", b"PK\x03\x04" + b"\0" * 500])
def test_what_is_no_weight_file_never_gets_the_name_of_one(hub, content, tmp_path, answer):
    hub.files[FILE.file_name] = answer
    with pytest.raises(WeightsError, match="is not the published file"):
        fetch(FILE, tmp_path)
    assert not (tmp_path / FILE.file_name).exists()
    hub.files[FILE.file_name] = content
    assert fetch(FILE, tmp_path).read_bytes() == content


def test_content_that_differs_from_the_published_is_refused(hub, tmp_path):
    with pytest.raises(WeightsError, match="is not the published file"):
        fetch(dataclasses.replace(FILE, sha256="0" * 64, sha256_revision=""), tmp_path)
    assert not (tmp_path / FILE.file_name).exists()


def test_a_folder_that_cannot_be_made(hub, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(WeightsError, match=r"the folder cannot be written to.*put it into"):
        fetch(FILE, tmp_path / "taken")


def test_the_shared_cache_is_looked_into(hub, content, tmp_path):
    assert find_in_cache(FILE) is None
    repository = tmp_path / "cache" / "models--LayerDiffusion--layerdiffusion-v1"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    cached = repository / "snapshots" / COMMIT / FILE.file_name
    cached.write_bytes(content)
    assert find_in_cache(FILE) == cached


def partials(folder):
    return sum(path.stat().st_size for path in folder.rglob(".*.part"))


class TestServersThatAreNotRight:
    """The whole file or a sentence with the true cause, and never more than one file's size beside it."""

    def test_a_server_without_ranges_is_begun_anew_and_never_appended(self, hub, content, tmp_path):
        hub.knows_ranges = False
        hub.breaks = [30_000, 50_000, 70_000]
        largest = []
        assert fetch(FILE, tmp_path, progress=lambda *_: largest.append(partials(tmp_path))).read_bytes() == content
        assert max(largest) <= len(content)

    def test_a_server_without_ranges_that_breaks_at_the_same_place_is_given_up(self, hub, content, tmp_path):
        hub.knows_ranges = False
        hub.breaks = [30_000] * 200
        with pytest.raises(WeightsError, match="could not be fetched"):
            fetch(FILE, tmp_path)
        assert hub.downloads <= 4
        assert partials(tmp_path) <= len(content)
        hub.breaks, hub.knows_ranges = [], True
        assert fetch(FILE, tmp_path).read_bytes() == content

    @pytest.mark.parametrize("left", [lambda whole: whole + whole, lambda whole: whole[::-1], lambda whole: bytes(50)])
    def test_what_an_earlier_attempt_left_is_thrown_away_where_it_is_wrong(self, hub, content, tmp_path, left):
        (tmp_path / f".{FILE.name}.part").write_bytes(left(content))
        assert fetch(FILE, tmp_path).read_bytes() == content
        assert everything_in(tmp_path) == [FILE.file_name]

    def test_the_folder_of_an_earlier_release_goes(self, hub, content, tmp_path):
        (tmp_path / f".{FILE.name}.download" / "deep").mkdir(parents=True)
        (tmp_path / f".{FILE.name}.download" / "deep" / "x.incomplete").write_bytes(bytes(100))
        fetch(FILE, tmp_path)
        assert everything_in(tmp_path) == [FILE.file_name]

    def test_the_right_length_and_another_content(self, hub, content, tmp_path):
        wrong = bytearray(content)
        wrong[-4:] = b"\0\0\x80\x3f"
        hub.sent = bytes(wrong)
        with pytest.raises(WeightsError, match="another sha256"):
            fetch(FILE, tmp_path)
        assert hub.ranges == [0, 0]  # begun again once
        assert not list(tmp_path.glob("*.safetensors"))
        assert partials(tmp_path) == 0
        hub.sent = None
        assert fetch(FILE, tmp_path).read_bytes() == content

    def test_a_wrong_content_once_is_not_noticed_by_the_user(self, hub, content, tmp_path):
        (tmp_path / f".{FILE.name}.part").write_bytes(bytes(len(content)))
        assert fetch(FILE, tmp_path).read_bytes() == content

    @pytest.mark.parametrize(
        ("change", "reason"), [(lambda c: c + b"more", "more than the whole"), (lambda c: c[:-9], "less than")]
    )
    def test_more_or_less_than_there_is(self, hub, content, tmp_path, change, reason):
        hub.sent = change(content)
        with pytest.raises(WeightsError, match=reason):
            fetch(FILE, tmp_path)
        assert not list(tmp_path.glob("*.safetensors"))
        assert partials(tmp_path) <= len(content)

    def test_gzip_that_nobody_asked_for(self, hub, content, tmp_path):
        hub.gzips = True
        assert fetch(FILE, tmp_path).read_bytes() == content

    def test_a_slow_server(self, hub, content, tmp_path):
        hub.pause = 0.05
        seen = []
        assert fetch(FILE, tmp_path, progress=lambda *step: seen.append(step)).read_bytes() == content
        assert len(seen) >= 2

    def test_a_server_that_falls_silent(self, hub, tmp_path, monkeypatch):
        monkeypatch.setattr(transfer, "_TIMEOUT", 0.3)
        hub.pause, hub.knows_ranges = 1.0, False
        with pytest.raises(WeightsError, match="does not answer in time"):
            fetch(FILE, tmp_path)

    @pytest.mark.parametrize("status", [400, 404, 408, 429, 500, 502, 503, 504])
    @pytest.mark.parametrize("everything", [True, False])
    def test_errors_are_told_as_they_are(self, hub, content, tmp_path, status, everything):
        hub.status, hub.statuses = (status, []) if everything else (0, [status])
        with pytest.raises(WeightsError, match=f"the server answers {status}"):
            fetch(FILE, tmp_path)
        hub.status = 0
        assert fetch(FILE, tmp_path).read_bytes() == content

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refusal_asks_for_a_token(self, hub, tmp_path, status):
        hub.status = status
        with pytest.raises(WeightsError, match="HF_TOKEN"):
            fetch(FILE, tmp_path)

    def test_redirects_in_circles_are_called_so(self, hub, tmp_path):
        hub.circle = True
        with pytest.raises(WeightsError, match="lead in circles"):
            fetch(FILE, tmp_path)

    def test_a_server_that_names_no_content_serves_all_the_same(self, hub, content, tmp_path):
        hub.names_content = False
        assert fetch(FILE, tmp_path).read_bytes() == content

    def test_there_nothing_of_an_earlier_attempt_is_gone_on_with(self, hub, content, tmp_path):
        hub.names_content = False
        (tmp_path / f".{FILE.name}.part").write_bytes(content[:500] + bytes(4_000))
        assert fetch(FILE, tmp_path).read_bytes() == content

    def test_there_the_recorded_sum_counts_for_its_own_revision(self, hub, content, tmp_path):
        hub.names_content, hub.commit = False, FILE.sha256_revision
        assert FILE.sha256
        with pytest.raises(WeightsError, match="another sha256"):
            fetch(FILE, tmp_path)
        own = dataclasses.replace(FILE, sha256=hashlib.sha256(content).hexdigest())
        assert fetch(own, tmp_path).read_bytes() == content

    def test_a_disk_that_fills_up_in_the_middle(self, hub, content, tmp_path, monkeypatch):
        def check_room(end, size):
            if end > 30_000:
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(transfer, "_check_room", check_room)
            with pytest.raises(WeightsError, match="the disk is full"):
                fetch(FILE, tmp_path)
        assert not list(tmp_path.glob("*.safetensors"))
        assert fetch(FILE, tmp_path).read_bytes() == content
        assert hub.ranges[-1] > 0  # gone on with


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("timed out"), "does not answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "no connection"),
        (ConnectionResetError(104, "Connection reset by peer"), "broke off"),
        (RuntimeError("who knows"), "the request failed: RuntimeError"),
    ],
)
def test_no_cause_is_named_that_was_not_looked_at(error, reason):
    assert reason in transfer.reason_of(error)
