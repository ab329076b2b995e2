"""What a link in a local directory of inputs has a job read: the security page says it."""

from __future__ import annotations

from pathlib import Path

from corpora import ROOT, write_parquet

from pipeline.input.local_files import files_below


def test_links_to_files_and_to_directories_are_followed_as_the_security_page_says(
    tmp_path: Path,
) -> None:
    inputs, elsewhere = tmp_path / "inputs", tmp_path / "elsewhere"
    inputs.mkdir()
    elsewhere.mkdir()
    write_parquet(elsewhere / "a.parquet", 4)
    write_parquet(elsewhere / "b.parquet", 4)
    (inputs / "file.parquet").symlink_to(elsewhere / "a.parquet")
    (inputs / "folder").symlink_to(elsewhere)
    found = {info.name: info.version for info in files_below(str(inputs))}
    assert sorted(found) == ["file.parquet", "folder/a.parquet", "folder/b.parquet"]

    page = (ROOT / "docs/operations.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| an input |")]
    assert "links to files and to directories are followed" in row

    assert "is another version" in row
    (inputs / "file.parquet").unlink()
    (inputs / "file.parquet").symlink_to(elsewhere / "b.parquet")
    turned = {info.name: info.version for info in files_below(str(inputs))}
    assert turned["file.parquet"] != found["file.parquet"]
