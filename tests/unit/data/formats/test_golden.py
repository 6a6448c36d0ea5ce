"""Bytes made by hand from the specifications, so that reader and writer cannot be wrong together."""

import io
import struct

import numpy as np
import pytest

from runtime.data.formats import example, recordio_protobuf, tfrecord
from runtime.data.formats.errors import FormatError
from runtime.data.formats.image_record import decode
from runtime.data.formats.samples import Sparse
from runtime.data.formats.window import Window
from runtime.data.formats.wire import varints
from tests.unit.data.formats.kinds import same


def test_the_checksum_is_castagnolis_and_masked() -> None:
    """RFC 3720, appendix B.4, and the check value of the CRC catalogue."""
    assert tfrecord.crc32c()(b"123456789") == 0xE3069283
    assert tfrecord.crc32c()(bytes(32)) == 0x8A9136AA
    assert tfrecord.mask(0xE3069283) == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_record_of_tfrecord() -> None:
    """Length 3; the masked checksums were computed bit by bit, below."""

    def slow(data: bytes) -> int:
        crc = 0xFFFFFFFF
        for byte in data:
            crc ^= byte
            for _ in range(8):
                crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        crc ^= 0xFFFFFFFF
        return ((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8 & 0xFFFFFFFF

    length = struct.pack("<Q", 3)
    data = length + struct.pack("<I", slow(length)) + b"abc" + struct.pack("<I", slow(b"abc"))
    assert list(tfrecord.read_records(Window(io.BytesIO(data * 2), "x"))) == [b"abc", b"abc"]
    out = io.BytesIO()
    tfrecord.TFRecordWriter(out).write(b"abc")
    assert out.getvalue() == data
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        with pytest.raises(FormatError, match="checksum"):
            list(tfrecord.read_records(Window(io.BytesIO(bytes(flipped)), "x")))


def test_an_example() -> None:
    """{"a": int64 [1, 300], "b": bytes "x", "c": float [0.5]}, packed and not packed."""
    a = b"\x0a\x01a\x12\x07\x1a\x05\x0a\x03\x01\xac\x02"
    b = b"\x0a\x01b\x12\x05\x0a\x03\x0a\x01x"
    c = b"\x0a\x01c\x12\x08\x12\x06\x0a\x04\x00\x00\x00\x3f"
    features = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in (a, b, c))
    record = b"\x0a" + bytes([len(features)]) + features
    expected = {"a": np.array([1, 300]), "b": b"x", "c": np.array([0.5], np.float32)}
    assert same(example.decode(record, "x", 0), expected)
    assert example.encode(expected) == record
    loose = b"\x0a\x01a\x12\x07\x1a\x05\x08\x01\x08\xac\x02"
    features = b"\x0a" + bytes([len(loose)]) + loose
    assert same(example.decode(b"\x0a" + bytes([len(features)]) + features, "x", 0), {"a": np.array([1, 300])})


def test_a_record_of_tensors() -> None:
    """values: float32 [1, 2]; label: float32 [3]; then a sparse one of int32 with keys and shape."""
    values = b"\x0a\x06values\x12\x0c\x12\x0a\x0a\x08" + struct.pack("<2f", 1, 2)
    label = b"\x0a\x06values\x12\x08\x12\x06\x0a\x04" + struct.pack("<f", 3)
    record = b"\x0a" + bytes([len(values)]) + values + b"\x12" + bytes([len(label)]) + label
    expected = {"values": np.array([1, 2], np.float32), "label": np.array([3], np.float32)}
    assert same(recordio_protobuf.decode(record, "x", 0), expected)
    assert recordio_protobuf.encode(expected) == record
    tensor = b"\x0a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x05" + b"\x12\x02\x01\x07" + b"\x1a\x01\x0a"
    value = b"\x3a" + bytes([len(tensor)]) + tensor
    entry = b"\x0a\x06values\x12" + bytes([len(value)]) + value
    found = recordio_protobuf.decode(b"\x0a" + bytes([len(entry)]) + entry, "x", 0)["values"]
    assert same(found, Sparse(np.array([1, 7], np.uint64), np.array([-1, 5], np.int32), (10,)))
    assert found.dense().tolist() == [0, -1, 0, 0, 0, 0, 0, 5, 0, 0]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (b"\x0a\x02\x01\x02\x12\x01\x01", "1 keys for 2 values"),
        (b"\x0a\x01\x01\x12\x01\x0a\x1a\x01\x0a", "key 10 outside shape"),
        (b"\x0a\x02\x01\x02\x1a\x01\x03", "2 values for shape"),
        (b"\x0a\x01\xff", "truncated"),
        (b"\x1a\x0a" + b"\xff" * 9 + b"\x01", "impossible shape"),
    ],
)
def test_tensors_that_contradict_themselves(tensor: bytes, words: str) -> None:
    value = b"\x3a" + bytes([len(tensor)]) + tensor
    entry = b"\x0a\x06values\x12" + bytes([len(value)]) + value
    with pytest.raises(FormatError, match=words) as caught:
        recordio_protobuf.decode(b"\x0a" + bytes([len(entry)]) + entry, "x.pbr", 77)
    assert str(caught.value).startswith("x.pbr, byte 77: ")


def test_packed_integers_of_every_length() -> None:
    values = [0, 1, 127, 128, 300, 2**31, 2**32 - 1, 2**56, 2**63, 2**64 - 1]
    raw = b"".join(_varint(value) for value in values)
    assert varints(raw, 0, len(raw)).tolist() == values


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def test_an_image_record_with_several_labels_does_not_feed_them_to_the_decoder() -> None:
    record = struct.pack("<IfQQ", 2, 0.0, 7, 0) + struct.pack("<2f", 5, 6) + b"JPEG"
    found = decode(record, "x", 0)
    assert found["image"] == b"JPEG"
    assert found["label"].tolist() == [5, 6]
    with pytest.raises(FormatError, match="claims 1000 labels and has 36 bytes"):
        decode(struct.pack("<I", 1000) + record[4:], "x", 0)
    with pytest.raises(FormatError, match="an image record of 3 bytes"):
        decode(b"abc", "x", 0)


def test_records_of_one_layout_and_of_others_give_what_each_alone_gives() -> None:
    """The second record of a layout is read by places: whatever lies there, it must be what its fields say."""
    chance = np.random.default_rng(0)
    samples: list[dict[str, object]] = []
    for number in range(60):
        shape = [(3,), (3,), (2, 3), (4,), (3,)][number % 5]
        dtype = np.float64 if number % 7 == 6 else np.float32
        samples.append({"values": chance.random(shape).astype(dtype), "label": np.array([number], np.float32)})
        if number % 11 == 10:
            samples.append({"values": np.array([number], np.int32)})
        if number % 13 == 12:
            samples.append({"other": samples[-1]["values"], "label": np.array([1], np.float32), "__uid__": "x"})
    out = io.BytesIO()
    writer = recordio_protobuf.RecordIOProtobuf().writer(out)
    for sample in samples + [samples[0]] * 3:
        writer.write(sample)
    found = list(recordio_protobuf.RecordIOProtobuf().samples(Window(io.BytesIO(out.getvalue()), "x")))
    assert same(dict(enumerate(found)), dict(enumerate(samples + [samples[0]] * 3)))
