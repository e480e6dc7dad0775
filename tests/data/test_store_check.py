"""Bytes that change under an open store: found by hashing every file, in the background, wherever the change is."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_ray.data import store as stores
from cxr_ray.data import store_check
from cxr_ray.errors import UserError
from tests.fakes.store import fake_store
from tests.fakes.trainings import write_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "store", fake_store(40))


def flip(file: Path, at: int) -> None:
    """Change one bit in place, as a bad disk does: neither the size nor the name changes."""
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))


def test_an_intact_store_passes(folder: Path) -> None:
    check = store_check.ByteCheck(stores.open(folder))
    check.wait()
    assert check.is_done


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_is_found_with_its_file(folder: Path, data: st.DataObject) -> None:
    store = stores.open(folder)
    name = data.draw(st.sampled_from(sorted(store.manifest.files)))
    at = data.draw(st.integers(0, store.manifest.files[name].bytes - 1))
    flip(folder / name, at)
    try:
        with pytest.raises(
            UserError, match=rf"{name}.* has changed: its checksum differs, on the node .*cxr-ray verify"
        ):
            store_check.ByteCheck(store).wait()
    finally:
        flip(folder / name, at)


def test_the_rows_of_a_damaged_shard_are_named(folder: Path) -> None:
    store = stores.open(folder)
    shard = next(name for name in sorted(store.manifest.files) if name.endswith(".arrow"))
    rows = store.index.loc[store.index["shard"] == 0, "row"]
    flip(folder / shard, 1000)
    try:
        with pytest.raises(UserError, match=rf"{shard} \(rows {rows.min()} to {rows.max()}\)"):
            store_check.ByteCheck(store).wait()
    finally:
        flip(folder / shard, 1000)


def test_a_file_that_vanished_is_an_error(folder: Path) -> None:
    store = stores.open(folder)
    gone = folder / "rejected.parquet"
    body = gone.read_bytes()
    gone.unlink()
    try:
        with pytest.raises(UserError, match=r"rejected\.parquet cannot be read \(No such file"):
            store_check.ByteCheck(store).wait()
    finally:
        gone.write_bytes(body)


def test_a_store_in_memory_has_nothing_to_check() -> None:
    assert store_check.start(fake_store(4)) is None


@pytest.mark.parametrize(
    ("verify", "found"), [("background", True), ("full", True), ("manifest", False), ("none", False)]
)
def test_a_block_over_changed_bytes_ends_with_the_damage(folder: Path, verify: str, found: bool) -> None:
    store = stores.open(folder)
    shard = next(name for name in store.manifest.files if name.endswith(".arrow"))
    flip(folder / shard, 1000)
    done = []
    try:
        with (
            pytest.raises(UserError, match="checksum differs") if found else nullcontext(),
            store_check.checked(store, verify),
        ):
            done.append(store.images([int(store.index["row"].iloc[0])]))
    finally:
        flip(folder / shard, 1000)
    assert done


class NodeCheck:
    """A check that is done once it was asked so many times."""

    def __init__(self, asked: int, damaged: bool) -> None:
        self.left, self.damaged, self.cancelled = asked, damaged, False

    @property
    def is_done(self) -> bool:
        self.left -= 1
        return self.left < 0

    def wait(self) -> None:
        if self.damaged:
            raise UserError("damaged")

    def cancel(self) -> None:
        self.cancelled = True


@given(st.data())
def test_results_pass_once_their_node_is_checked_and_none_of_a_damaged_node(data: st.DataObject) -> None:
    kinds = data.draw(
        st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 5), st.sampled_from(["ok", "bad", "free"])))
    )
    results = [
        (node, number)
        for number, node in enumerate(data.draw(st.lists(st.sampled_from(sorted(kinds)))) if kinds else [])
    ]
    checks: dict[str, NodeCheck | None] = {}

    def check_on(node: str) -> NodeCheck | None:
        assert node not in checks  # once
        asked, kind = kinds[node]
        checks[node] = None if kind == "free" else NodeCheck(asked, kind == "bad")
        return checks[node]

    damaged = any(kinds[node][1] == "bad" for node, _ in results)
    passed: list[int] = []
    with pytest.raises(UserError, match="damaged") if damaged else nullcontext():
        passed.extend(store_check.once_checked(results, check_on))
    of = {number: node for node, number in results}
    assert all(kinds[of[number]][1] != "bad" for number in passed)
    for node in kinds:
        own = [number for number in passed if of[number] == node]
        assert own == sorted(own)
        if not damaged:
            assert own == [number for other, number in results if other == node]
    assert all(check is None or check.cancelled for check in checks.values())
