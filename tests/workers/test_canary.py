"""A device that computes other values than the first one of a run steps back, and says so."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import redis
import torch
from corpora import GOLDENS
from planned import Job, MakeJob
from torch import Tensor

from pipeline import canary
from pipeline.canary import check_canary
from pipeline.choice import Choice
from pipeline.encoder import precision
from pipeline.encoder.model import load
from pipeline.encoder.tokenizer import load_tokenizer
from pipeline.errors import CanaryDiffers
from pipeline.output.output import Output
from pipeline.output.run import Run
from pipeline.tasks import make_task
from pipeline.tokenize.texts import TextTokenizer
from pipeline.tokenize.tokens import Tokens
from workers.broker import Broker
from workers.celery_tasks import MessageHandler
from workers.device_main import Jobs, Order, execute
from workers.device_process import DeviceThread
from workers.engine_cache import EngineCache
from workers.known_jobs import KnownJobs
from workers.settings import Settings
from workers.step_back import StepBack, read_refusals

pytestmark = pytest.mark.integration

Worker = Callable[[str], MessageHandler]
Damage = Callable[[dict[str, Tensor]], None]


@pytest.fixture
def worker(settings: Settings, broker: Broker, known_jobs: KnownJobs) -> Worker:
    """One more worker, with an engine of its own."""

    def make(host: str) -> MessageHandler:
        device = DeviceThread("cpu", EngineCache(settings.cache_dir))
        step_back = StepBack(host, 1, "cpu", patience_seconds=60)
        return MessageHandler(settings, broker, known_jobs, device, step_back, lambda: False)

    return make


def flip_a_bit(weights: dict[str, Tensor]) -> None:
    """One bit of one weight, as memory does it: the highest of its exponent."""
    weights["layers.0.down.weight"].view(torch.int32).view(-1)[100] ^= 1 << 30


def tear_a_page(weights: dict[str, Tensor]) -> None:
    """A stretch of zeros, as a torn write leaves it."""
    weights["layers.1.up.weight"].view(-1)[:64] = 0


def damage(patch: pytest.MonkeyPatch, how: Damage) -> None:
    """Let the encoder's weights be damaged on their way from disk."""
    sound = load.load_weights

    def loaded(matched: Any, names: Any, *words: Any) -> dict[str, Tensor]:
        weights = sound(matched, names, *words)
        if "tokens.weight" in weights:
            how(weights)
        return weights

    patch.setattr(load, "load_weights", loaded)


def files(job: Job) -> dict[str, bytes]:
    """The canaries of a run, by the last part of their names."""
    listed = job.output.directory.list(job.run.path("canary-"))
    return {i.name.rpartition("/")[2]: job.output.directory.read(i.name) for i in listed}


@pytest.mark.parametrize("how", [flip_a_bit, tear_a_page])
def test_a_worker_whose_weights_are_damaged_steps_back_and_says_why(
    job: Job,
    worker: Worker,
    broker: Broker,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    how: Damage,
) -> None:
    monkeypatch.setattr("workers.step_back._FIRST_PAUSE_SECONDS", 0.0)
    broker.register(job.run)
    good, bad = worker("good"), worker("bad")
    assert good.run_shard(job.message(0, 1))
    before = files(job)
    with monkeypatch.context() as patch:
        damage(patch, how)
        assert bad.run_shard(job.message(1, 2))
    assert job.committed == [0]
    assert files(job) == before
    (refusal,) = read_refusals(raw, job.run.job)
    assert refusal.host == "bad"
    assert "computes other values than the first one of run 1" in refusal.reason
    assert "where float32 allows 1e-03" in refusal.reason
    assert refusal.reason.count(f"@{socket.gethostname()} (process ") == 2  # the first, and this
    assert "docs/operations.md" in refusal.hint
    # Loaded anew, the weights are sound: what was damaged may have been memory.
    assert bad.run_shard(job.message(1, 1))
    assert good.run_shard(job.message(2, 2))
    assert job.committed == [0, 1, 2, 3]
    assert read_refusals(raw, job.run.job) == []


def test_where_the_first_one_is_damaged_all_others_name_it(
    job: Job, worker: Worker, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        damage(patch, tear_a_page)
        assert worker("first").run_shard(job.message(0, 1))
    assert worker("second").run_shard(job.message(1, 1))
    assert job.committed == [0]
    (refusal,) = read_refusals(raw, job.run.job)
    assert "First " in refusal.reason
    assert "here " in refusal.reason


def test_a_worker_that_would_choose_another_precision_computes_in_that_of_the_output(
    job: Job, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker("cpu").run_shard(job.message(0, 1))
    with monkeypatch.context() as patch:
        half = Choice("bfloat16", "as a GPU would")
        choose = precision.choose_precision
        patch.setattr(
            "pipeline.encoder.engine.choose_precision",
            lambda given, *others: half if given == "auto" else choose(given, *others),
        )
        assert worker("gpu").run_shard(job.message(1, 1))
    assert files(job).keys() == {"canary-float32.json"}
    assert job.committed == [0, 1]


def test_a_tokenizer_of_another_version_is_named(
    job: Job, worker: Worker, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker("good").run_shard(job.message(0, 1))
    with monkeypatch.context() as patch:
        whole = TextTokenizer.encode_column

        def shouting(it: TextTokenizer, column: pa.Array, prompt: str = "") -> Tokens:
            texts = [x.upper() + "." for x in column.to_pylist()]
            return whole(it, pa.array(texts, column.type), prompt)

        patch.setattr(TextTokenizer, "encode_column", shouting)
        assert worker("bad").run_shard(job.message(1, 1))
    (refusal,) = read_refusals(raw, job.run.job)
    assert "the fixed texts have other tokens" in refusal.reason


def test_a_version_with_other_texts_is_not_compared(
    job: Job, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker("old").run_shard(job.message(0, 1))
    monkeypatch.setattr(canary, "TEXTS", ("other", "texts"))
    assert worker("new").run_shard(job.message(1, 1))
    assert job.committed == [0, 1]


def test_a_model_that_cannot_compute_the_texts_goes_on_without(
    job: Job, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: Any) -> Any:
        raise RuntimeError("no batch of several texts")

    monkeypatch.setattr("pipeline.canary.pack", refuses)
    assert worker("any").run_shard(job.message(0, 1))
    assert job.committed == [0]
    assert files(job) == {}
    assert "the canary cannot be computed: no batch of several texts" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [-1, 32]}, {"shape": [16, 33]}, {"values": 5}, {"by": "a\x1b[2J"},
        {"versions": [1]}, {"precision": None},
    ],
)  # fmt: skip
def test_a_damaged_canary_is_named_and_can_be_deleted(
    job: Job, worker: Worker, raw: redis.Redis, change: dict[str, Any]
) -> None:
    assert worker("first").run_shard(job.message(0, 1))
    name = job.run.path("canary-float32.json")
    value = {**json.loads(job.output.directory.read(name)), **change}
    job.output.directory.put(name, json.dumps(value).encode())
    assert worker("second").run_shard(job.message(1, 1))
    (refusal,) = read_refusals(raw, job.run.job)
    assert "canary-float32.json is damaged" in refusal.reason
    assert "delete it" in refusal.hint
    job.output.directory.delete(name)
    assert worker("third").run_shard(job.message(1, 1))
    assert job.committed == [0, 1]


def test_it_is_computed_once_for_a_run_and_a_loaded_model(
    job: Job, make_job: MakeJob, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    agree = canary.agree  # each time that the texts were computed

    def counted(output: Output, run: Run, *words: Any, **options: Any) -> None:
        computed.append(run.job)
        agree(output, run, *words, **options)

    monkeypatch.setattr(canary, "agree", counted)
    other = make_job(name="other")
    engines, jobs = EngineCache(settings.cache_dir), Jobs()
    for each, index in ((job, 0), (job, 1), (other, 0), (job, 2), (other, 1)):
        order = Order(each.output.uri, each.run.n, [index])
        execute(order, "cpu", engines, lambda event: None, lambda: False, jobs)
    assert (job.committed, other.committed) == ([0, 1, 2], [0, 1])
    assert computed == [job.run.job, other.run.job]


@pytest.mark.parametrize("name", ["bert_mean", "gte_new_ntk"])
def test_a_torn_page_in_any_tensor_is_beyond_what_the_precision_allows(
    name: str, make_job: MakeJob, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the encoder, but for embeddings of tokens and positions that the texts do not have."""
    job = make_job(1, model=str(GOLDENS / name))
    engine = EngineCache(settings.cache_dir).get(job.run.spec, "cpu")
    task = make_task(job.run.spec, engine.card, load_tokenizer(engine.card))
    check_canary(job.output, job.run, engine, task)
    assert engine.card.matched is not None
    tensors = [t for t in engine.card.matched.sources if t.startswith("layers.")]
    assert len(tensors) > 10
    for tensor in tensors:

        def tear(weights: dict[str, Tensor], tensor: str = tensor) -> None:
            flat = weights[tensor].view(-1)
            flat[: max(8, len(flat) // 16)] *= -1 if "norm" in tensor or "bias" in tensor else 0

        with monkeypatch.context() as patch:
            damage(patch, tear)
            torn = EngineCache(settings.cache_dir).get(job.run.spec, "cpu")
        with pytest.raises(CanaryDiffers):
            check_canary(job.output, job.run, torn, task)
