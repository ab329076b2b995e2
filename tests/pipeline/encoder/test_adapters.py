"""LoRA adapters: the vectors that peft computes, or a refusal by name; never the base alone."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from corpora import GOLDENS
from fixtures_encoder import fresh_card, open_engine
from fixtures_hub import COMMIT, Hub
from safetensors.torch import load_file, save_file

from pipeline.encoder.checkpoint.checkpoint import Checkpoint, resolve
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CheckpointError
from pipeline.planning.choices import model_choices

Compute = Callable[..., list[Any]]
Harm = Callable[[Path], None]

ADAPTERS = Path(__file__).parent / "adapters"
CASES = sorted(path.parent.name for path in ADAPTERS.glob("*/cases.json"))
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def edit(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(content))


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[[str], Path]:
    """An adapter's folder by the name of its case, whose base is a golden's directory."""

    def copy(name: str) -> Path:
        folder = tmp_path / f"adapter-{name}"
        shutil.copytree(ADAPTERS / name, folder, ignore=shutil.ignore_patterns("cases.json"))
        edit(folder, base_model_name_or_path=str(GOLDENS / _case(name)["golden"]))
        return folder

    return copy


def _case(name: str) -> Any:
    return json.loads((ADAPTERS / name / "cases.json").read_text())


@pytest.fixture
def check(compute: Compute) -> Callable[[Checkpoint, str], None]:
    """Compare a checkpoint's values with those that peft computed for a case."""

    def compare(checkpoint: Checkpoint, name: str) -> None:
        card, case = fresh_card(checkpoint), _case(name)
        load_tokenizer(card)  # the adapter's own, or the base's
        options = {"normalize": True} if card.head == "embedding" else {}
        got = np.array(compute(open_engine(checkpoint, **options), case["ids"]))
        np.testing.assert_allclose(got, case["outputs"], rtol=0, atol=1e-5)

    return compare


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_gives_the_values_of_peft(
    name: str, adapter: Any, check: Any, cache: Path
) -> None:
    found = resolve(str(adapter(name)), cache_dir=cache)
    check(found, name)
    assert found.base == str(GOLDENS / _case(name)["golden"])


def test_the_weights_beside_an_adapter_are_its_base(adapter: Any, check: Any, cache: Path) -> None:
    """As transformers takes them, whatever base the adapter names."""
    folder = adapter("plain")
    edit(folder, base_model_name_or_path="/nowhere/at/all")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDENS / "bert_mean" / name, folder)
    found = resolve(str(folder), cache_dir=cache)
    assert found.path == folder
    check(found, "plain")


def test_a_base_in_shards_is_read_whole(
    adapter: Any, check: Any, cache: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(GOLDENS / "bert_mean", base)
    tensors = load_file(base / "model.safetensors")
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({n: t for n, t in tensors.items() if files[n] == file}, base / file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (base / "model.safetensors").unlink()
    folder = adapter("plain")
    edit(folder, base_model_name_or_path=str(base))
    check(resolve(str(folder), cache_dir=cache), "plain")


@pytest.mark.parametrize("place", ["", "0_Transformer"])
def test_module_files_and_tokenizer_are_the_adapters_own(
    place: str, adapter: Any, cache: Path
) -> None:
    folder = adapter("plain")
    modules = json.loads((GOLDENS / "bert_mean" / "modules.json").read_text())
    modules[0]["path"] = place
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 17}))
    if place:
        (folder / place).mkdir()
        for file in (CONFIG, TENSORS, "tokenizer.json", "tokenizer_config.json"):
            (folder / file).rename(folder / place / file)
    card = fresh_card(resolve(str(folder), cache_dir=cache))
    assert card.modules.pooling == ("cls",)
    assert card.modules.normalize
    assert card.max_length == 17


def test_an_adapter_on_the_hub_is_fetched_with_its_base(
    adapter: Any, check: Any, cache: Path, hub: Hub
) -> None:
    folder = adapter("plain")
    edit(folder, base_model_name_or_path="a/base")
    for name in ("model.safetensors", "config.json"):  # of an earlier merge: not what is read
        shutil.copy(GOLDENS / "roberta_mean" / name, folder)
    hub.serve(folder, "a/adapter")
    hub.serve(GOLDENS / "bert_mean", "a/base")
    found = resolve("a/adapter", cache_dir=cache)
    check(found, "plain")
    assert found.base == f"a/base at {COMMIT}"
    weights = [name for name in hub.fetched if name.endswith(".safetensors")]
    assert weights == [TENSORS, "model.safetensors"]
    choice = model_choices(fresh_card(found))["base"]
    assert (choice.value, "LoRA" in choice.reason) == (found.base, True)
    hub.reachable = False
    assert resolve("a/adapter", cache_dir=cache).sha256 == found.sha256


def test_the_revision_of_the_base_is_the_one_that_was_trained_on(
    adapter: Any, check: Any, cache: Path, hub: Hub
) -> None:
    folder = adapter("plain")
    edit(folder, base_model_name_or_path="a/base", revision="v2")
    hub.serve(folder, "a/adapter")
    hub.serve(GOLDENS / "roberta_mean", "a/base")
    hub.serve(GOLDENS / "bert_mean", "a/base", "v2")
    check(resolve("a/adapter", cache_dir=cache), "plain")


def test_an_adapter_in_a_store_is_fetched(adapter: Any, check: Any, cache: Path) -> None:
    folder = adapter("plain")
    fs, root = fsspec.filesystem("memory"), f"/adapters-{uuid.uuid4().hex[:8]}"
    fs.put(f"{folder}/", f"{root}/adapter", recursive=True)
    check(resolve(f"memory:/{root}/adapter", cache_dir=cache), "plain")
    fs.rm(root, recursive=True)


def test_base_and_adapter_are_both_in_the_identity(adapter: Any, cache: Path) -> None:
    base = resolve(str(GOLDENS / "bert_mean"), cache_dir=cache)
    folder = adapter("plain")
    first = resolve(str(folder), cache_dir=cache)
    assert "adapter" not in fresh_card(base).identity()
    assert fresh_card(first).identity()["adapter"] == "lora"
    edit(folder, lora_alpha=7)
    second = resolve(str(folder), cache_dir=cache)
    assert (second.sha256, second.fingerprint) != (first.sha256, first.fingerprint)
    tensors = load_file(folder / TENSORS)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, folder / TENSORS)
    third = resolve(str(folder), cache_dir=cache)
    assert len({base.sha256, first.sha256, third.sha256}) == 3
    assert fresh_card(third).to_json("embed")["base"] == str(GOLDENS / "bert_mean")


def _config(**changes: Any) -> Harm:
    return lambda folder: edit(folder, **changes)


def _tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    def harm(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS)

    return harm


def _set(part: str, tensor: torch.Tensor) -> Harm:
    name = f"base_model.model.encoder.layer.0.attention.self.query.{part}"
    return _tensors(lambda tensors: tensors.update({name: tensor}))


def _pickled(folder: Path) -> None:
    (folder / TENSORS).rename(folder / "adapter_model.bin")


def _twice(tensors: dict[str, torch.Tensor]) -> None:
    """The names of an encoder and of a model around it."""
    for part in ("A", "B"):
        name = f"encoder.layer.0.attention.self.query.lora_{part}.weight"
        tensors[f"base_model.model.bert.{name}"] = tensors[f"base_model.model.{name}"].clone()


def _all_of_its_tensors(tensors: dict[str, torch.Tensor]) -> None:
    tensors.clear()
    tensors["base_model.model.pooler.dense.bias"] = torch.zeros(32)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_config(peft_type="IA3"), "an adapter of the kind 'IA3'"),
        (_config(use_dora=True), "sets use_dora = True"),
        (_config(lora_bias=True), "sets lora_bias = True"),
        (_config(trainable_token_indices=[1]), r"sets trainable_token_indices = \[1\]"),
        (_config(alora_invocation_tokens=[1]), "sets alora_invocation_tokens"),
        (_config(layer_replication=[[0, 2]]), "sets layer_replication"),
        (_config(something_new="x"), "sets something_new = 'x'"),
        (_config(init_lora_weights="pissa_niter_4"), "init_lora_weights = 'pissa_niter_4'"),
        (_config(rank_pattern={"(a+)+$": 2}), r"has '\(a\+\)\+\$' in its rank_pattern"),
        (_config(rank_pattern=[1]), r"sets rank_pattern = \[1\]"),
        (_config(r=3), "the rank 3, its tensors not"),
        (_config(r=None), "the rank None"),
        (_config(lora_alpha="a"), "the alpha 'a'"),
        (_config(target_modules=["key"]), r"has lora_A, lora_B of encoder\.\S+, which do not go"),
        (_config(base_model_name_or_path=None), "base_model_name_or_path = None"),
        (_config(base_model_name_or_path="~nobody/base"), "base_model_name_or_path = '~nobody"),
        (_config(base_model_name_or_path="a\nb"), r"base_model_name_or_path = 'a\\nb'"),
        (_config(revision=3), "revision = 3"),
        (_config(base_model_name_or_path="/no/such"), "the base of the adapter: /no/such is"),
        (_set("lora_magnitude_vector.weight", torch.ones(32)), "lora_magnitude_vector"),
        (_set("lora_B.bias", torch.ones(32)), r"lora_B\.bias, which its base lacks"),
        (_set("lora_A.weight", torch.ones(2, 31)), r"of \[2, 31\] for a tensor of \[32, 32\]"),
        (_set("bias", torch.ones(31)), r"of \[31\] for a tensor of \[32\]"),
        (_set("lora_A.weight", torch.ones(2, 32, dtype=torch.int8)), "not floats of 16 bits"),
        (_tensors(lambda t: t.pop(sorted(t)[0])), "has lora_B of encoder"),
        (_tensors(lambda t: t.update({"x.lora_A.weight": torch.ones(1)})), "holds x.lora_A.weight"),
        (
            _tensors(lambda t: t.update({"base_model.model.score.weight": torch.ones(1)})),
            r"score\.weight, which its base lacks",
        ),
        (_tensors(_twice), "adapts encoder.layer.0.attention.self.query.weight twice"),
        (_tensors(_all_of_its_tensors), "holds no LoRA"),
        (_pickled, r"only as adapter_model\.bin: a pickle"),
        (lambda folder: (folder / TENSORS).unlink(), rf"has no {TENSORS}"),
    ],
)
def test_what_is_not_applied_is_refused_by_name(
    harm: Harm, message: str, adapter: Any, cache: Path
) -> None:
    folder = adapter("plain")
    harm(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        fresh_card(resolve(str(folder), cache_dir=cache))
    assert caught.value.hint


def test_an_adapter_of_another_adapter_is_refused(adapter: Any, cache: Path) -> None:
    folder = adapter("plain")
    edit(folder, base_model_name_or_path=str(adapter("patterns")))
    with pytest.raises(CheckpointError, match="itself an adapter"):
        resolve(str(folder), cache_dir=cache)


def test_an_adapter_on_the_hub_names_no_directory_of_this_machine(
    adapter: Any, cache: Path, hub: Hub
) -> None:
    hub.serve(adapter("plain"), "a/adapter")
    with pytest.raises(CheckpointError, match="bert_mean', which is not on the hub"):
        resolve("a/adapter", cache_dir=cache)


def test_an_adapter_of_a_family_that_transformers_computes_says_how_to_merge_it(
    adapter: Any, cache: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "distilbert"}))
    published = "transformer.layer.0.attention.q_lin.weight"
    save_file({published: torch.ones(32, 32)}, base / "model.safetensors")
    folder = adapter("plain")
    edit(folder, base_model_name_or_path=str(base), target_modules=["q_lin"])
    name = "base_model.model.transformer.layer.0.attention.q_lin"
    tensors = {
        f"{name}.lora_A.weight": torch.ones(2, 32),
        f"{name}.lora_B.weight": torch.ones(32, 2),
    }
    save_file(tensors, folder / TENSORS)
    shutil.copy(GOLDENS / "bert_mean" / "tokenizer.json", folder)
    with pytest.raises(CheckpointError, match="a family that transformers computes") as caught:
        fresh_card(resolve(str(folder), cache_dir=cache))
    assert "merge_and_unload" in caught.value.hint
