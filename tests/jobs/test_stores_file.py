"""`--stores FILE`: each input, output and checkpoint with the options of its own URI prefix."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commandline import Bei, Outcome
from corpora import TINY, write_parquet
from fixtures_accounts import Account, MakeAccount

from pipeline.store.sections import Stores, configure

pytestmark = pytest.mark.integration

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_options_for_the_next_test() -> Iterator[None]:
    yield
    configure(Stores())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "corpus.parquet", 20)


def nothing_secret(done: Outcome, *accounts: Account) -> None:
    printed = done.out + done.err
    assert [a.secret for a in accounts if a.secret in printed or a.key in printed] == []


def test_input_checkpoint_and_output_are_on_endpoints_and_accounts_of_their_own(
    submit: Bei, bei: Bei, corpus: Path, make_account: MakeAccount, stores_file: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    source, models, target = make_account("in"), make_account("models"), make_account("out")
    monkeypatch.setenv("OUT_KEY", target.key)
    monkeypatch.setenv("OUT_SECRET", target.secret)
    encrypted = {"ServerSideEncryption": "AES256"}
    file = stores_file(
        source.section(),
        models.section(),
        target.section(
            key=None, secret=None, key_env="OUT_KEY", secret_env="OUT_SECRET",
            s3_additional_kwargs=encrypted,
        ),
    )  # fmt: skip
    output = f"s3://{target.bucket}/vectors"
    failed: list[str] = []

    def once(request: dict[str, Any], answer: Any) -> tuple[str, bytes] | None:
        """Answer the first PUT of each part with an error although it was applied."""
        path = request["PATH_INFO"]
        if request["REQUEST_METHOD"] == "PUT" and path.endswith(".arrow") and path not in failed:
            failed.append(path)
            b"".join(answer(request, lambda *_: None))
            return "500 Internal Server Error", b"<Error><Code>InternalError</Code></Error>"
        return None

    target.fault = once
    words = (source.upload(corpus, "corpus.parquet"), "--output", output, "--rows-per-shard", 10)
    model = ("--model", models.upload(Path(TINY), "tiny"))

    done = submit(*words, *model, "--stores", file, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == 20
    nothing_secret(done, source, models, target)
    # The retries, the conditional writes and the options hold for each account.
    assert len(failed) == 2
    written = [each for each in target.headers if "/vectors/" in each["PATH"]]
    puts = [each for each in written if each["METHOD"] == "PUT"]
    parts = [each for each in puts if each["PATH"].endswith(".arrow")]
    assert [each.get("HTTP_IF_NONE_MATCH") for each in parts] == ["*", "*"]
    assert {each.get("HTTP_X_AMZ_SERVER_SIDE_ENCRYPTION") for each in puts} == {"AES256"}

    monkeypatch.setenv("BEI_JOBS_STORES", str(file))
    assert submit(*words, *model, "--json").json["rows"]["computed"] == 0
    for command in ("status", "verify", "files", "retry", "cancel"):
        done = bei(command, output, "--json")
        assert done.code in (0, 1), (command, done.err)
        assert done.json.get("job"), done.out
        nothing_secret(done, source, models, target)
    assert [job["state"] for job in bei("list", "--json").json["jobs"]] == ["done"]
    assert bei("models", model[1], "--json").code == 0
    sample = ("--sample", words[0], "--rows", 3, "--device", "cpu")
    assert bei("check", model[1], *sample, "--json").code == 0
    assert bei("list", "--stores", "", "--json").json["jobs"][0]["state"] == "gone"


def test_a_wrong_account_is_refused_and_the_hint_names_the_section(
    submit: Bei, corpus: Path, make_account: MakeAccount, stores_file: Write
) -> None:
    ours, theirs = make_account("ours"), make_account("theirs")
    output = f"s3://{ours.bucket}/out"
    file = stores_file(ours.section(key=theirs.key, secret=theirs.secret))
    done = submit(corpus, "--output", output, "--stores", file)
    assert done.code == 1
    assert f"{output}/" in done.err
    assert "access denied" in done.err
    assert f'section ["s3://{ours.bucket}"] of {file}' in done.err
    assert len(done.screen) <= 3
    nothing_secret(done, ours, theirs)

    file = stores_file(ours.section(endpoint_url="http://127.0.0.1:1/minio"))
    done = submit(corpus, "--output", output, "--stores", file)
    assert done.code == 1
    assert f'section ["s3://{ours.bucket}"] of {file}' in done.err
    assert "127.0.0.1" not in done.err
    nothing_secret(done, ours, theirs)

    file = stores_file(theirs.section())
    done = submit(corpus, "--output", output, "--stores", file)
    assert done.code == 1
    assert f"no section of {file} covers it" in done.err


@pytest.mark.usefixtures("device_in_this_process")
def test_the_longest_prefix_wins_and_ends_at_a_slash(
    submit: Bei, corpus: Path, make_account: MakeAccount, stores_file: Write, tmp_path: Path
) -> None:
    store = make_account("store")
    wrong = {"key": "AKIAWRONG", "secret": "wrong"}
    file = stores_file(
        store.section(f"{store.bucket}/in", **wrong),
        store.section(f"{store.bucket}/in/private"),
        store.section(f"{store.bucket}/in/private/vectors", **wrong),
    )
    uri = store.upload(corpus, "in/private/corpus.parquet")
    done = submit(uri, "--output", tmp_path / "out", "--stores", file)
    assert done.code == 0, done.err
    uri = store.upload(corpus, "in/private-not/corpus.parquet")
    assert "denied" in submit(uri, "--output", tmp_path / "out2", "--stores", file).err
    # A section below an output holds for the files below it, by whichever call they are reached.
    done = submit(corpus, "--output", f"s3://{store.bucket}/in/private/vectors", "--stores", file)
    assert "private/vectors" in done.err


@pytest.mark.usefixtures("device_in_this_process")
def test_a_job_reads_from_s3_and_writes_to_gcs(
    submit: Bei, bei: Bei, corpus: Path, make_account: MakeAccount, gcs: str, fake_gcs: str,
    stores_file: Write, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")  # only the stores file names it
    source = make_account("source")
    target = f'["{gcs}"]\nendpoint_url = "{fake_gcs}"\ntoken = "anon"\nproject = "p"'
    file = stores_file(source.section(), target)
    uri = source.upload(corpus, "corpus.parquet")
    words = (uri, "--output", f"{gcs}/out", "--rows-per-shard", 10, "--stores", file)
    done = submit(*words, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == 20
    assert submit(*words, "--json").json["rows"]["computed"] == 0
    assert bei("verify", f"{gcs}/out", "--stores", file).code == 0


@pytest.fixture
def private_site(corpus: Path) -> Iterator[str]:
    """A web server that serves the corpus to those who know the password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == "Bearer password-of-the-site"
            found = self.path == "/data/corpus.jsonl"
            body = b'{"id": "1", "text": "one"}\n' if known and found else b""
            self.send_response(200 if known and found else 404 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("device_in_this_process")
def test_options_of_any_other_store_are_passed_on(
    submit: Bei, private_site: str, stores_file: Write, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = (f"{private_site}/data/corpus.jsonl", "--output", tmp_path / "out")
    assert submit(*words).code == 1
    monkeypatch.setenv("SITE", "Bearer password-of-the-site")
    headers = '{ headers = { Authorization_env = "SITE" } }'
    file = stores_file(f'["{private_site}"]', f"client_kwargs = {headers}")
    done = submit(*words, "--stores", file, "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["computed"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", ["cannot be read"]),
        ("key = 'hush'", ['section ["key"]', "not a section"]),
        ("[s3]\nkey = 'hush'", ['section ["s3"]', "not a section", 'such as ["s3://']),
        ('["/data"]', ["not a section"]),
        ('["file:///data"]', ["on this machine"]),
        ('["s3://in/*"]', ["pattern"]),
        ('["s4://in"]', ["no known kind of store"]),
        ('["s3://key:hush@in"]', ["password"]),
        ('["s3://in"]\n["s3://in/"]', ["twice"]),
        ('["s3://in"]\nkey = 1\nsecret = "hush"', [": key is not a text"]),
        ('["s3://in"]\nkey = ""\nsecret = "hush"', [": key is not a text"]),
        ('["s3://in"]\nkey = "hush"', [": key is given without secret"]),
        ('["s3://in"]\nsecret = "hush"', [": secret is given without key"]),
        ('["s3://in"]\nkey = "hush"\nsecret = "hush"\nprofile = "p"', [": profile is given"]),
        ('["s3://in"]\nkey = "hush"\nkey_env = "HUSH"', [": key is there with key_env too"]),
        ('["s3://in"]\nkey_env = 1', [": key_env is not the name"]),
        ('["s3://in"]\nkey_env = "NOT_SET"', [": key_env names NOT_SET, which is not set"]),
        ('["gs://in"]\ntoken = { key_env = "NOT_SET" }', [": token.key_env names NOT_SET"]),
        ('["gs://in"]\ntoken = "/no/hush.json"', [": token names a file that is not there"]),
        ('["s3://in"]\nendpoint_url = "minio:9000"', [": endpoint_url is not an http://"]),
        ('["s3://in"]\nsince = 2026-01-01', [": since has a value of a wrong type"]),
        ('["s3://in"]\nconfig_kwargs = 1', [": config_kwargs is not a table"]),
        ('["s3://in"]\nconfig_kwargs = { retries = {} }', [": config_kwargs.retries is what"]),
        ('["s3://in"]\nuse_listings_cache = true', [": use_listings_cache is what"]),
    ],
)
def test_a_wrong_file_is_refused_by_file_section_and_option(
    bei: Bei, stores_file: Write, text: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUSH", "hush")
    file = stores_file(text)
    done = bei("list", "--stores", file)
    assert done.code == 2
    assert len(done.screen) == 2
    assert [part for part in [str(file), *said] if part not in done.err] == []
    assert "hush" not in done.err


def test_a_file_that_is_not_there_is_named(bei: Bei, tmp_path: Path) -> None:
    done = bei("list", "--stores", tmp_path / "none.toml")
    assert done.code == 2
    assert f"{tmp_path}/none.toml cannot be read" in done.err


def test_a_job_file_names_it_too(bei: Bei, corpus: Path, tmp_path: Path) -> None:
    job_file = tmp_path / "job.toml"
    job_file.write_text(f'inputs = ["{corpus}"]\nstores = "{tmp_path}/none.toml"')
    done = bei("submit", "--job-file", job_file)
    assert done.code == 2
    assert f"{tmp_path}/none.toml cannot be read" in done.err


@pytest.mark.parametrize("option", ["endpont_url", "config_kwargs = { nothing = 1 }\nkeep"])
def test_an_option_that_the_file_system_does_not_have_is_no_stack_trace(
    submit: Bei, stores_file: Write, option: str, make_account: MakeAccount, corpus: Path
) -> None:
    file = stores_file('["s3://bucket"]', f'{option} = "http://hush.internal"')
    done = submit(corpus, "--output", "s3://bucket/out", "--stores", file)
    assert done.code == 2
    assert "cannot be opened" in done.err
    assert f'section ["s3://bucket"] of {file}' in done.err
    assert "hush" not in done.err
    assert len(done.screen) == 2


@pytest.mark.parametrize(
    ("mode", "text", "warned"),
    [
        (0o644, 'key = "k"\nsecret = "s"', True),
        (0o644, 'client_kwargs = { headers = { Authorization = "s" } }', True),
        (0o640, 'key = "k"\nsecret = "s"', False),
        (0o644, 'key_env = "HOME"\nsecret_env = "HOME"', False),
        (0o644, 'profile = "p"\ns3_additional_kwargs = { SSEKMSKeyId = "id" }', False),
        (0o644, 'client_kwargs = { token = "/etc/passwd" }', False),
        (0o644, 'client_kwargs = { token = "anon" }', False),
    ],
)
def test_a_file_with_secrets_that_all_may_read_is_warned_of(
    bei: Bei, stores_file: Write, mode: int, text: str, warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    file = stores_file('["s3://bucket"]', text)
    file.chmod(mode)
    assert bei("list", "--stores", file).code == 0
    assert (f"{file} holds secrets" in caplog.text) == warned
