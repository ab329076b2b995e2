"""The snippets of the documentation, and what a reader needs around them to type them.

A comment on the line above a fence says what is not as usual:

    <!-- exits with 1: it is refused -->       the last command is shown because it fails
    <!-- checked, not run: needs a cluster --> its syntax, options and files are checked instead
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from corpora import ROOT, TINY, write_parquet

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_MARK = re.compile(r"<!-- (.*?) -->\n *\Z")
_FILE = re.compile(r"`([\w-]+\.(?:toml|yaml))`")
_BACKGROUND = re.compile(r"^(bei-jobs (?:worker|schedule run)\b[^#&\n]*?)\s*(#.*)?$", re.MULTILINE)
_BUCKET = re.compile(r"s3://([a-z][a-z0-9-]+)")
_WAIT_S = 240
#: Stands for what the tests do not have: a hub, a cluster, the reader's own names.
_STAND_INS = {
    "intfloat/e5-base-v2": TINY,
    "BAAI/bge-base-en-v1.5": TINY,
    "naver/splade-v3": str(ROOT / "tests/sparse_goldens/splade_bert"),
    "opensearch-project/opensearch-neural-sparse-encoding-doc-v3-distill": str(
        ROOT / "tests/sparse_goldens/splade_router"
    ),
    "DIR_OF_BGE_M3": str(ROOT / "tests/sparse_goldens/bge_m3"),
    "cuda:0": "cpu",
    "FLOAT[384]": "FLOAT[32]",
    "2025-01-01 --to 2026-10-31": "2026-09-01 --to 2026-10-31",  # two slots, and not 22
}


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    mark: str
    file: str  # the last TOML or YAML file that was named before it, if any
    before: str  # what the page says between the last fence and this one

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        return not self.mark.startswith("checked, not run: ")

    @property
    def exit_code(self) -> int:
        found = re.match(r"exits with (\d+)", self.mark)
        return int(found[1]) if found else 0


def pages() -> list[str]:
    """Every page of the site."""
    folders = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    every = [ROOT / "README.md", ROOT / "CHANGELOG.md", *folders]
    return sorted(str(path.relative_to(ROOT)) for path in every)


def snippets(page: str) -> list[Snippet]:
    """The snippets of a page, in order."""
    text = (ROOT / page).read_text()
    found, end = [], 0
    for match in _FENCE.finditer(text):
        before = text[end : match.start()]
        mark = _MARK.search(before)
        files = _FILE.findall(before)
        found.append(
            Snippet(
                page=page,
                line=text[: match.start()].count("\n") + 1,
                language=match[2],
                text=re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE),
                mark=mark[1] if mark else "",
                file=files[-1] if files else "",
                before=before,
            )
        )
        end = match.end()
    fences = re.findall(r"^ *(?:```|~~~)", text, re.MULTILINE)
    assert len(fences) == 2 * len(found), f"{page} has a fence that is not understood"
    return found


@dataclass
class Stage:
    """A folder, an S3 store and a Redis, in which the snippets of one page are typed in turn."""

    folder: Path
    redis_url: str
    s3_endpoint: str
    stand_ins: dict[str, str] = field(default_factory=dict)
    _sessions: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _buckets: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.work = self.folder / "work"
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        self._lay_out()

    def _lay_out(self) -> None:
        """The files that the pages speak of; small ones."""
        rows = pq.read_table(ROOT / "examples/corpus.parquet").slice(0, 200)
        words = rows["text"].to_pylist()
        ids = [f"article-{n:03}" for n in range(200)]
        self.work.mkdir()
        pq.write_table(rows, self.work / "corpus.parquet")
        shutil.copytree(ROOT / "examples", self.work / "examples")
        shutil.copy(ROOT / "deploy/prometheus/alerts.yml", self.work)
        articles = self.folder / "data/articles"
        for n, name in enumerate("ab"):
            part = slice(100 * n, 100 * n + 100)
            write_parquet(
                articles / f"{name}.parquet", 100, id=ids[part], text=words[part],
                body=words[part], lang=["en"] * 100, date=["2026-11-28"] * 100,
            )  # fmt: skip
        shutil.copy(articles / "a.parquet", self.work / "articles.parquet")
        (self.work / "queries.jsonl").write_text('{"text": "which packages unpack a file?"}\n')
        (self.work / "schedules").mkdir()
        (self.work / "schedules/nightly.toml").write_bytes(self._nightly())
        monthly = (ROOT / "examples/monthly.toml").read_text()
        (self.work / "monthly.toml").write_text(self.said(monthly))
        for month in ("2026-08", "2026-09"):
            reviews = self.folder / f"data/reviews/month={month}/one.parquet"
            write_parquet(reviews, 5, body=words[:5], lang=["en"] * 5, stars=[5] * 5)

    def said(self, text: str) -> str:
        """A text of the page with stand-ins for what the tests do not have."""
        text = _BUCKET.sub(rf"s3://\1-{self._buckets}", text)
        text = re.sub(r"redis://(?:redis|localhost):6379/0", self.redis_url, text)
        text = text.replace("/data/", f"{self.folder}/data/")
        for name, stand_in in (_STAND_INS | self.stand_ins).items():
            text = text.replace(name, stand_in)
        return text

    def make_buckets(self, page: str) -> None:
        """The buckets that a page names, with the objects that it reads."""
        import boto3

        client = boto3.client("s3", endpoint_url=self.s3_endpoint)
        text = self.said((ROOT / page).read_text())
        for name in set(_BUCKET.findall(text)):
            client.create_bucket(Bucket=name)
        articles = self.folder / "data/articles"
        for bucket, prefix in set(re.findall(r"s3://([\w-]+)/(articles|in/articles)/", text)):
            for file in articles.iterdir():
                client.upload_file(str(file), bucket, f"{prefix}/{file.name}")
        for bucket in set(re.findall(r"s3://([\w-]+)/schedules", text)):
            client.put_object(Bucket=bucket, Key="schedules/nightly.toml", Body=self._nightly())

    def _nightly(self) -> bytes:
        articles = self.folder / "data/articles"
        return f'cron = "0 2 * * *"\ninputs = ["{articles}"]\noutput = "{articles}.out"\n'.encode()

    def typed(self, snippet: Snippet) -> str:
        """Type a snippet, and say what it printed; commands that do not end stay in the background.

        Raises:
            AssertionError: it ended with another exit code than the page says.
        """
        text = self.said(snippet.text)
        if snippet.language == "sql":
            text = f"import duckdb\nduckdb.execute({text!r})"
        if snippet.language == "sh":
            text = _BACKGROUND.sub(r"\1 >> background.log 2>\&1 &", text)
            # What one block exports, the next ones have, as in the reader's shell.
            text = f"if [ -e ../exported ]; then . ../exported; fi\n{text}\nexport -p > ../exported"
            return self._run(["bash", "-euo", "pipefail", "-c", text], snippet)
        if (self.folder / "exported").exists():
            text = "\n".join(["set +u", ". ../exported", f"exec {shlex.join(_python(text))}"])
            return self._run(["bash", "-c", text], snippet)
        return self._run(_python(text), snippet)

    def _run(self, words: list[str], snippet: Snippet) -> str:
        out, err = self.folder / "out", self.folder / "err"
        # Not pipes: what goes on in the background would hold them open.
        with out.open("wb") as to_out, err.open("wb") as to_err:
            session = subprocess.Popen(
                words, cwd=self.work, env=self.environment, stdout=to_out, stderr=to_err,
                start_new_session=True,
            )  # fmt: skip
            self._sessions.append(session)
            code = session.wait(_WAIT_S)
        said = f"{snippet.where} exits with {code}\n{out.read_text()}{err.read_text()}"
        assert code == snippet.exit_code, said
        assert "Traceback" not in err.read_text(), said
        return out.read_text()

    def close(self) -> None:
        """End what is left in the background."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for session in self._sessions:
                try:
                    os.killpg(session.pid, signum)
                except ProcessLookupError:
                    continue


def _python(text: str) -> list[str]:
    return [sys.executable, "-c", text]
