"""The checkpoints that are said to work, in the program and in its documentation."""

from __future__ import annotations

import re
from pathlib import Path

import layouts
import pytest
from corpora import GOLDENS, ROOT
from fixtures_encoder import recognised

from pipeline.encoder.architecture.tested_models import TESTED_MODELS
from pipeline.encoder.checkpoint.checkpoint import resolve

_ROW = re.compile(r"^\| ([\w.-]+/[\w.-]+) \| (\w+) \| ([\w-]+) \|", re.MULTILINE)


def test_the_list_of_the_program_and_the_table_of_the_documentation_agree() -> None:
    table = {match.groups() for match in _ROW.finditer((ROOT / "docs/models.md").read_text())}
    assert {(known.name, known.task, known.family) for known in TESTED_MODELS} == table


def test_every_family_that_is_said_to_work_has_a_layout(cache: Path, tmp_path: Path) -> None:
    made = (layouts.nomic_moe, layouts.mistral, layouts.static_embedding)
    folders = [p for p in GOLDENS.iterdir() if p.is_dir()]
    folders += [write(tmp_path / write.__name__) for write in made]
    tested = {recognised(resolve(str(folder), cache_dir=cache)) for folder in folders}
    families = {encoder.family for encoder in tested if encoder is not None}
    assert {known.family for known in TESTED_MODELS} == families


@pytest.mark.parametrize("folder", sorted(p.name for p in GOLDENS.iterdir() if p.is_dir()))
def test_every_golden_is_named_in_the_documentation(folder: str) -> None:
    assert f"`{folder}`" in (ROOT / "docs" / "models.md").read_text()
