"""What only the embedded event log can do: be broken, cut and deleted as a file."""

from contextlib import closing
from pathlib import Path

import pytest

from storage.errors import OffsetLostError, SourceError
from storage.logs.event_log import EventLogTopic
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests.record_histories import MORNING, numbered, read_all, read_to, rows, values

NAME = "orders"


@pytest.fixture
def topic(tmp_path: Path) -> EventLogTopic:
    (tmp_path / NAME).mkdir()
    return EventLogTopic(tmp_path, NAME)


def write(topic: EventLogTopic, text: bytes, segment: str = "0-0") -> Path:
    path = topic.directory / topic.name / f"{segment}.jsonl"
    with path.open("ab") as file:
        file.write(text)
    return path


def test_a_line_becomes_a_record_with_its_newline(topic: EventLogTopic) -> None:
    write(topic, b'{"value": "whole"}\n{"val')
    assert topic.bounds(0) == (0, 1)
    with closing(topic.reader(0, 0)) as reader:
        assert values(reader.read(10, timeout=0)) == [b"whole"]
        assert len(reader.read(10, timeout=0.05)) == 0
        write(topic, b'ue": "at last"}')
        assert len(reader.read(10, timeout=0.05)) == 0
        write(topic, b"\n")
        assert rows(reader.read(10, timeout=0)) == [(1, -1, None, b"at last", None)]


def test_a_writer_cuts_off_the_half_line_that_a_killed_one_left(topic: EventLogTopic) -> None:
    write(topic, b'{"value": "whole"}\n{"value": "half' + b"f" * 100_000)
    with EventLogWriter(topic.directory, NAME) as writer:
        assert writer.append([NewRecord(None, b"next")]) == 2
    assert values(*read_all(topic)) == [b"whole", b"next"]


def test_captured_records_are_read_with_their_other_fields_ignored(topic: EventLogTopic) -> None:
    write(
        topic, b'{"topic": "t", "partition": 4, "offset": 77, "key": "k", "value": null, "more": {"a": [1, null]}}\r\n'
    )
    assert rows(*read_all(topic)) == [(0, -1, b"k", None, None)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"not json", "does not begin with"),
        (b"", "does not begin with"),
        (b"null", "does not begin with"),  # pyarrow would crash the process
        (b'{"value": "a"} null {"value": "b"}', "not JSON"),  # and here
        (b'{"value": "a"}{"value": "b"}', "not JSON"),
        (b'{"value": "a"', "not JSON"),
        (b'{"value": "\xff"}', "not JSON"),
        (b'{"value": "a", "headers": {"h": "\xff"}}', "not JSON"),
        (b'{"value": "\\ud800"}', "half a surrogate pair"),
        (b'{"headers": {"h": "\\ud800"}}', "half a surrogate pair"),
        (b'{"value": 5}', "'value' is a number, not a string or null"),
        (b'{"key": {"id": 1}}', "'key' is an object, not a string or null"),
        (b'{"timestamp": "2024-01-01"}', "'timestamp' is a string, not an integer of milliseconds"),
        (b'{"timestamp": 1.5}', "'timestamp' is a number, not an integer of milliseconds"),
        (b'{"timestamp": true}', "'timestamp' is a boolean"),
        (b'{"value_base64": "!"}', "'value_base64' is not Base64"),
        (b'{"headers": {"a": 1}}', "'headers' is not an object of strings and nulls"),
    ],
)
def test_a_malformed_line_is_an_error_that_names_it(topic: EventLogTopic, line: bytes, problem: str) -> None:
    path = write(topic, b'{"value": "first"}\n{"value": "second"}\n' + line + b'\n{"value": "last"}\n')
    with closing(topic.reader(0, 1)) as reader, pytest.raises(SourceError) as raised:
        reader.read(10, timeout=0)
    assert f"{path}, line 3" in str(raised.value)
    assert problem in str(raised.value)
    assert "Expected one JSON object a line" in str(raised.value)


def test_segments_follow_each_other_and_the_oldest_may_go(topic: EventLogTopic) -> None:
    with EventLogWriter(topic.directory, NAME) as writer, closing(topic.reader(0, 0)) as reader:
        writer.append(numbered(range(3)))
        oldest = writer.roll()
        writer.append(numbered(range(3, 10)))
        writer.roll()
        assert [path.name for _, path in topic.segments(0)] == ["0-0.jsonl", "0-3.jsonl", "0-10.jsonl"]
        assert values(*read_to(reader, 10)) == [record.value for record in numbered(range(10))]
        assert topic.offset_at(0, MORNING + 5000) == 5

        oldest.unlink()
        assert topic.bounds(0) == (3, 10)
        writer.append(numbered([10]))
        assert values(*read_to(reader, 11)) == [b"value 10"]
    assert values(*read_all(topic)) == [record.value for record in numbered(range(3, 11))]
    # A writer that comes later goes on in the newest segment.
    with EventLogWriter(topic.directory, NAME) as writer:
        assert writer.append(numbered([11])) == 12


def test_a_missing_segment_in_the_middle_is_not_skipped(topic: EventLogTopic) -> None:
    write(topic, b'{"value": "0"}\n')
    write(topic, b'{"value": "5"}\n', segment="0-5")
    with closing(topic.reader(0, 0)) as reader:
        assert values(reader.read(10, timeout=0)) == [b"0"]
        with pytest.raises(OffsetLostError, match=r"offset 1: it holds offsets 0 up to 6.*removed from inside"):
            reader.read(10, timeout=0)


@pytest.mark.parametrize("harm", ["truncate", "delete", "replace"])
def test_a_file_that_shrinks_or_goes_under_a_reader_is_an_error(topic: EventLogTopic, harm: str) -> None:
    path = write(topic, b'{"value": "0"}\n{"value": "1"}\n')
    write(topic, b'{"value": "9"}\n', segment="1-0")
    with closing(topic.reader(0, 0)) as reader:
        assert len(reader.read(10, timeout=0)) == 2
        if harm == "truncate":
            path.write_bytes(b'{"value": "0"}\n')
        else:
            path.unlink()
        if harm == "replace":
            write(topic, b'{"value": "new"}\n')
        with pytest.raises(
            SourceError, match="offset 2: it holds offsets 0 up to 1" if harm != "delete" else "it has 1"
        ):
            reader.read(10, timeout=0)
