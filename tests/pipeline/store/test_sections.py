"""Which section covers a URI, and that two accounts never share a file system."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from pipeline.store.sections import Section, Stores, configure
from pipeline.store.uris import filesystem

SECRET = "a-secret-of-the-section"


@pytest.fixture(autouse=True)
def no_options_for_the_next_test() -> Iterator[None]:
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()  # they keep what they were made with
    yield
    clients.clear_instance_cache()
    configure(Stores())


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("s3://in/a/b", "s3://in/a"),
        ("s3://in/a", "s3://in/a"),
        ("s3://in/a/", "s3://in/a"),
        ("s3://in/ab", "s3://in"),
        ("s3://in-2/a", "s3://"),
        ("gs://in/a", None),
        ("/s3://in/a", None),
    ],
)
def test_the_longest_prefix_that_ends_at_a_slash_wins(uri: str, prefix: str | None) -> None:
    stores = Stores("f", tuple(Section(p, {}) for p in ("s3://in", "s3://", "s3://in/a")))
    found = stores.section(uri)
    assert (found and found.prefix) == prefix


def test_two_accounts_have_a_file_system_each_and_one_account_has_one() -> None:
    keys = {"a": "AKIAONE", "b": "AKIATWO", "b/c": "AKIAONE"}
    options = {at: {"key": key, "secret": SECRET} for at, key in keys.items()}
    configure(Stores("f", tuple(Section(f"s3://{at}", each) for at, each in options.items())))
    systems = {at: filesystem(f"s3://{at}/x")[0] for at in (*keys, "other")}
    assert {at: fs.key for at, fs in systems.items()} == {**keys, "other": None}
    assert systems["a"] is systems["b/c"]
    assert len({id(fs) for fs in systems.values()}) == 3
    assert {fs.retries for fs in systems.values()} == {1}
    assert filesystem("s3://b", "c/part")[0] is systems["a"]


def test_options_of_a_section_are_added_to_our_own() -> None:
    given = {"config_kwargs": {"read_timeout": 5, "s3": {"addressing_style": "path"}}}
    configure(Stores("f", (Section("s3://a", given),)))
    config = filesystem("s3://a/x")[0].config_kwargs
    assert config["retries"]["total_max_attempts"] == 1
    assert (config["read_timeout"], config["s3"]) == (5, {"addressing_style": "path"})
    assert given == {"config_kwargs": {"read_timeout": 5, "s3": {"addressing_style": "path"}}}


def test_what_a_client_does_to_its_options_stays_there() -> None:
    stores = Stores("f", (Section("s3://a", {"client_kwargs": {}}),))
    stores.options("s3://a")["client_kwargs"]["verify"] = False
    assert stores.options("s3://a") == {"client_kwargs": {}}


def test_a_section_shows_no_secret() -> None:
    section = Section("s3://a", {"secret": SECRET, "client_kwargs": {"x": {"token": "hush"}}})
    stores = Stores("/stores.toml", (section,))
    assert SECRET not in repr(stores)
    assert stores.scrub("s3://a/b", f"refused {SECRET} and hush") == "refused ... and ..."
    assert stores.note("s3://a/b") == ' (section ["s3://a"] of /stores.toml)'


def test_a_section_takes_out_what_a_url_spells_otherwise_and_the_parts_of_an_address() -> None:
    token, key = "ya29.a/secret+of=gcs", "c2VjcmV0/of+azure=="
    address = f"DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={key};"
    sections = (
        Section("gs://a", {"token": token}),
        Section("az://a", {"connection_string": address}),
    )
    stores = Stores("/stores.toml", sections)
    text = "GET /tokeninfo?access_token=ya29.a%2Fsecret%2Bof%3Dgcs"
    assert stores.scrub("gs://a/b", text) == "GET /tokeninfo?access_token=..."
    assert stores.scrub("az://a/b", f"https with {key}") == "https with ..."
