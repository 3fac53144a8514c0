"""Damaged and hostile files, mutated from valid ones by a seeded generator: the same seed gives the same file."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)
DTYPES = [
    "F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "F8_E5M2", "F8_E4M3",
    "F8_E8M0", "F4", "F6_E2M3", "C64", "float32", "X",
]  # fmt: skip
TEXTS = (
    "", "a", "clip_l", "clip_g", "t5", "t5xxl", "emb_params", "emp_params", "string_to_param", "../../escaped", "/escaped", "..\\x", "CON", "com¹.x",
    "\0", "a\nb", "\u202eabc", "é", "e\u0301", "\ud800", "猫" * 99, "x" * 5000, "{}", "{0.__class__}", "<x>", "support.features",
    "vectors.clip_l", "moments.0.step", "moments.x.y", "generators.0", "history", "best", "bundle_emb.x", "clip_l_out", "%s%n",
)  # fmt: skip
KEYS = [
    "format", "format_version", "labels", "names", "encoders", "templates", "pooling", "base_model", "training",
    "label", "name", "steps", "identity", "losses", "batches", "again",
]  # fmt: skip


def bytes_changed(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Flipped, cut, put in, taken out, overwritten, spliced; a few of these in a row, mostly near the ends."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        size = len(data)
        near = random.choice((64, 512, 2000, size))
        place = (
            min(random.randrange(near + 1), size)
            if random.random() < 0.7
            else max(0, size - random.randrange(near + 1))
        )
        kind = random.randrange(8)
        if kind <= 2 and place < size:
            data[place] = random.choice((0, 255, data[place] ^ (1 << random.randrange(8)), random.randrange(256)))
        elif kind == 3:
            del data[place:]
        elif kind == 4:
            data[place:place] = random.randbytes(random.choice((1, 4, 100)))
        elif kind == 5:
            del data[place : place + random.choice((1, 4, 100))]
        elif kind == 6:
            number = random.choice(NUMBERS) % 2**64
            data[place : place + 4] = (
                struct.pack("<Q", number)[:4] if random.random() < 0.5 else struct.pack(">Q", number)[4:]
            )
        else:
            other = random.choice(others)
            data[place:] = other[random.randrange(len(other)) :]
    return bytes(data)


def any_json(random: Random, depth: int = 3) -> Any:
    kind = random.randrange(8 if depth else 6)
    if kind == 6:
        return [any_json(random, depth - 1) for _ in range(random.randrange(4))]
    if kind == 7:
        return {random.choice(TEXTS): any_json(random, depth - 1) for _ in range(random.randrange(4))}
    return (None, True, random.choice(NUMBERS), random.choice(TEXTS), random.random(), float("nan"))[kind]


def json_text(random: Random) -> str:
    """A value as it stands in the metadata: right, wrong, endless or no JSON at all."""
    kind = random.randrange(7)
    if kind == 0:
        depth = random.choice((50, 900, 5000, 10**5))
        return random.choice(
            ("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth, '{"a":' * depth + "1" + "}" * depth)
        )
    if kind == 1:
        return random.choice(("", "NaN", "Infinity", "-1", "1" * 5000, "1e999", '"', "[", '"\\ud800"', "true", "null"))
    if kind == 2:
        return json.dumps([random.choice(TEXTS) for _ in range(random.randrange(5))])
    if kind == 3:
        return json.dumps(
            random.choice(("mcti-token-set", "mcti-embedding", "mcti-training", "eot", "token", 1, 2, ""))
        )
    return json.dumps(any_json(random))


def header_changed(random: Random, content: bytes) -> bytes:
    """A safetensors file whose header says other things."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for _ in range(random.choice((1, 1, 2, 4))):
        data = _header_edit(random, header, data)
    text = json.dumps(header).encode()
    if random.random() < 0.1:
        text = random.choice(
            (b"[" * 10**5, b'{"a":' * 200, text + b" " * 10**5, text[:-1], b"\xff" + text, text * 2, b"{}")
        )
    size = (
        len(text) if random.random() < 0.85 else random.choice([n for n in NUMBERS if 0 <= n < 2**64] + [len(text) + 1])
    )
    return size.to_bytes(8, "little") + text + data


def _header_edit(random: Random, header: dict[str, Any], data: bytes) -> bytes:
    names = [name for name in header if name != "__metadata__"]
    metadata = header.setdefault("__metadata__", {})
    if not isinstance(metadata, dict):
        metadata = header["__metadata__"] = {}
    kind = random.choice((0, 1, 2, 3, 3, 3, 3, 3, 4, 5, 6, 7, 7, 8))
    entry = header[random.choice(names)] if names else {}
    if not isinstance(entry, dict):
        entry = {}
    if kind == 0:
        entry["dtype"] = random.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = random.choice(([], [0], [1, 768], [2**62, 4], [768, 2], [-1], any_json(random), [1] * 99))
    elif kind == 2:
        entry["data_offsets"] = random.choice(([0, 0], [0, len(data)], [0, 2**63], [9, 3], any_json(random)))
    elif kind == 3:
        metadata[random.choice([*metadata, *KEYS])] = json_text(random)
    elif kind == 4 and metadata:
        metadata.pop(random.choice(list(metadata)))
    elif kind == 5 and names:
        header[random.choice(TEXTS)] = header.pop(random.choice(names))
    elif kind == 6:
        header["__metadata__"] = any_json(random)
    elif kind == 7:
        dtype, width = random.choice(
            [("F32", 4), ("F16", 2), ("I64", 8), ("U8", 1), ("F8_E5M2", 1), ("BOOL", 1), ("F64", 8), ("U16", 2)]
        )
        shape = random.choice(([], [1], [0], [1, 768], [2, 768], [3, 2, 16], [1, 1, 1], [76, 4], [2]))
        count = width
        for side in shape:
            count *= side
        header[random.choice(TEXTS)] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + count]}
        return data + random.choice((bytes(count), random.randbytes(count), b"\xff" * count))
    elif names:
        header.pop(random.choice(names))
    return data


def archive_changed(random: Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A zip whose members are others: their pickle, their names, how they are packed, what they claim."""
    new, kind = io.BytesIO(), random.randrange(6)
    packing = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(new, "w", packing) as archive:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".pkl") and kind <= 1:
                data = bytes_changed(random, data, others)
            elif name.endswith(".pkl") and kind <= 3:
                data = hostile_pickle(random)
            elif kind == 4:
                data = random.choice(
                    (
                        data,
                        data,
                        data[: len(data) // 2],
                        data + b"x",
                        b"",
                        bytes(40 * 2**20)[: random.choice((9, 40 * 2**20))],
                    )
                )
            elif kind == 5:
                name = random.choice(
                    (name, name, "../" + name, "/" + name, name.upper(), name + "\0x", "x/" + name, "é" + name)
                )
            if random.random() < 0.97:
                archive.writestr(name, data)
        if random.random() < 0.1:
            archive.writestr(
                random.choice(("archive/constants.pkl", "archive/data.pkl", "../escaped", "archive/DATA.PKL")),
                hostile_pickle(random),
            )
    made = new.getvalue()
    return bytes_changed(random, made, others) if random.random() < 0.1 else made


def text_op(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number_op(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def call(name: str, *arguments: bytes) -> bytes:
    """GLOBAL module name, arguments, REDUCE."""
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 1536) -> bytes:
    return (
        b"("
        + text_op("storage")
        + f"ctorch\n{kind}\n".encode()
        + text_op(key)
        + text_op("cpu")
        + number_op(count)
        + b"tQ"
    )


def hostile_pickle(random: Random) -> bytes:
    """Valid pickles that no embedding is: code, endless nesting, keys that are never hashed to the end, claimed sizes."""
    huge = number_op(random.choice((2**20, 2**33, 2**40, 2**62, -1)))
    shape = (
        b"(" + b"".join(number_op(random.choice((1, 2, 768, 10**9, -1, 0))) for _ in range(random.randrange(4))) + b"t"
    )
    stride = (
        b"(" + b"".join(number_op(random.choice((0, 1, 768, -1, 10**9))) for _ in range(random.randrange(4))) + b"t"
    )
    kind = random.choice(("FloatStorage", "HalfStorage", "LongStorage", "QUInt8Storage", "UntypedStorage", "X"))
    tensor = call(
        random.choice(("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3")),
        storage(kind, random.choice(("0", "1", "../0")), random.choice((1536, 1, 2**40, -5))),
        number_op(random.choice((0, 5, 2**40, -1))), shape, stride, b"\x89", call("collections.OrderedDict"),
    )  # fmt: skip
    depth = random.choice((30, 200, 10**4, 3 * 10**5))
    doubled = b")q\0" + b"".join(b"h\0h\0\x86q\0" for _ in range(random.choice((5, 60, 5000))))
    values = [
        call("os.mkdir", text_op("ran")), call("posix.mkdir", text_op("ran")), call("builtins.eval", text_op("__import__('os').mkdir('ran')")),
        call("builtins.exec", text_op("open('ran','w')")), call("subprocess.Popen", text_op("touch ran")), call("torch.load", text_op("ran")),
        call("io.open", text_op("ran"), text_op("w")), call("pathlib.Path", text_op("ran")), call("torch.hub.load", text_op("x"), text_op("y")),
        call("builtins.bytearray", huge), call("torch.Tensor", huge), call("torch.FloatTensor", huge), call("torch.storage.UntypedStorage", huge),
        call("torch.storage.TypedStorage", huge), call("_codecs.encode", text_op("a" * 999), text_op("utf-16")), call("builtins.set", b"]"),
        call("torch.Size", shape), call("torch.device", text_op(random.choice(("cuda", "meta", "x")))), call("torch.nn.parameter.Parameter", tensor),
        call("torch.nn.modules.container.ParameterDict", b"}"), call("torch.nn.modules.container.ParameterDict", huge),
        call("torch._utils._rebuild_parameter", tensor, b"\x88", b"}"), call("torch._utils._rebuild_meta_tensor_no_storage", b"N", shape, stride, b"\x89"),
        call("torch._utils._rebuild_sparse_tensor", call("torch.serialization._get_layout", text_op("torch.sparse_coo")), b"(" + tensor + tensor + shape + b"t"),
        call("torch._tensor._rebuild_from_type_v2", b"N", b"N", b")", b"}"), call("torch._utils._rebuild_qtensor", storage(), huge, shape, stride, b")", b"\x89", b"}"),
        b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth, b"}" + b")" + b"\x85" * depth + b"Ns", b"}(" + doubled + b"Nu",
        call("collections.OrderedDict", b"](" + b"(" + doubled + b"Nte"), call("builtins.set", b"](" + doubled + b"e"),
        tensor, tensor, tensor, tensor + b"(" + storage() + huge + shape + stride + b"tb", text_op(random.choice(TEXTS)), number_op(random.choice(NUMBERS)),
        b"}(" + text_op("*") + tensor + b"u", storage(kind), b"}" + text_op("_parameters") + b"Ns",
    ]  # fmt: skip
    inner = random.choice(values)
    key = random.choice(
        (
            text_op("emb_params"),
            text_op("string_to_param"),
            text_op(random.choice(TEXTS)),
            b"K\x01",
            random.choice(values),
        )
    )
    shape_of = random.randrange(4)
    body = (
        inner,
        b"}(" + key + inner + b"u",
        b"}(" + key + inner + text_op("name") + random.choice(values) + b"u",
        b"](" + inner + inner + b"e",
    )[shape_of]
    return b"\x80" + bytes([random.choice((2, 2, 2, 2, 4, 9))]) + body + b"."
