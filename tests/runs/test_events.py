"""What is said and what happens, kept in the folder."""

from cxr_ray.runs import events


def test_events_are_read_in_order_without_a_line_that_was_cut(tmp_path):
    events.record(tmp_path, "started")
    events.record(tmp_path, "workers", "training on 1 of 2 workers", workers=1)
    with (tmp_path / events.FILE).open("a") as file:
        file.write('{"time": "2026')
    first, second = events.read(tmp_path)
    assert first["event"] == "started" and second["workers"] == 1 and first["time"] <= second["time"]
    assert events.read(tmp_path / "none") == []


def test_what_is_said_before_there_is_a_folder_is_kept_for_its_log(tmp_path):
    lines: list[str] = []
    said = events.Said(lines.append)
    said("copying the store")
    said.keep_in(tmp_path)
    said("plan")
    assert lines == ["copying the store", "plan"] and (tmp_path / "log.txt").read_text() == "copying the store\nplan\n"
