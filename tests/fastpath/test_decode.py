"""decode(): the JSON reader against the reference, except for single numbers."""

import base64
import json
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpux.errors import (
    ClashingInputsError,
    DuplicateInputError,
    InvalidBodyError,
    UnknownInputError,
)
from gpux.tensors.signature import BY_NAME, Dim
from tests.support.decode_cases import (
    Syntax,
    an_input,
    body,
    check,
    elements,
    expected,
    nest,
    read,
    space,
    spell,
    spell_integer,
    spell_string,
)
from tests.support.oracle import FLOATS, INTEGERS, TextInput, batch_kind
from tests.support.sanitizer import fewer
from tests.support.walk_cases import TYPE_NAMES, Refusal, refused

NAMES = ["x", "ids", "é", "", 'a"b\\', "long name " * 12, "\0", "😀", "y", "z"]
CHARACTERS = 'abc ,]}[{:"\\/\n\t\0\x1f\x7f\x80é߿ࠀ\u2028\ud7ff\ue000\uffff😀\U0010ffff'

# Valid bodies of any form.


def some_input(random: Random, name: str) -> TextInput:
    axes = random.choice([0, 1, 1, 2, 2, 2, 3, 4])
    dims: list[Dim] = [random.choice(["n", "m", None, 1, 2, 3]) for _ in range(axes)]
    type_name = random.choice(TYPE_NAMES)
    return an_input(
        type_name,
        *dims,
        name=name,
        batched=random.choice([None, None, None, True, False]),
        max_characters=random.choice([None, None, 5, 0]),
        null_is_nan=type_name in FLOATS and random.random() < 0.3,
    )


def some_element(random: Random, one: TextInput) -> str:
    """An element that the input accepts."""
    name = one.declared.type.name
    if name == "string":
        limit = 12 if one.max_characters is None else one.max_characters
        text = "".join(random.choice(CHARACTERS) for _ in range(random.randint(0, limit)))
        return spell_string(random, text)
    if name == "bool":
        return random.choice(["true", "false", spell(random, False, "1", 0), "0", "-0.0e7"])
    if name in INTEGERS:
        low, high = INTEGERS[name]
        return spell_integer(random, random.choice([0, low, high, 7, random.randint(low, high)]))
    digits = str(random.randrange(10 ** random.choice([1, 2, 5, 9, 17, 19, 20, 25])))
    exponent = random.randint(-len(digits) - 3, 4 - len(digits))
    return spell(random, random.random() < 0.5, digits, exponent)


def some_value(random: Random, one: TextInput) -> str:
    """A value that the input accepts."""
    kind = batch_kind(one.declared)
    if kind == "open":
        shape = [random.randint(1, 3) for _ in range(random.choice([0, 0, 1, 2, 5]))]
    else:
        sizes = {"n": random.choice([1, 1, 2, 3, 7]), "m": random.choice([1, 2, 5]), None: 2}
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in one.declared.dims]
        if kind in ("batched", "single") and shape[0] == 1 and random.random() < 0.5:
            shape = shape[1:]
    return nest(random, shape, [some_element(random, one) for _ in range(math.prod(shape))])


def some_body(random: Random) -> tuple[bytes, list[TextInput]]:
    inputs = [
        some_input(random, name) for name in random.sample(NAMES, random.choice([1, 1, 2, 4]))
    ]
    present = random.sample(inputs, random.randint(max(len(inputs) - 1, 1), len(inputs)))
    return body(random, [(one.declared.name, some_value(random, one)) for one in present]), inputs


randoms = st.integers(0, 2**64).map(Random)


@given(st.randoms(use_true_random=False))
@settings(max_examples=fewer(200))
def test_what_is_right_gives_the_same_tensors(random: Random) -> None:
    text, inputs = some_body(random)
    outcome = check(text, *inputs)
    assert isinstance(outcome, list), (text, outcome)


@pytest.mark.parametrize("seed", range(fewer(20)))
def test_many_that_are_right_give_the_same_tensors(seed: int) -> None:
    random = Random(seed)
    for _ in range(100):
        text, inputs = some_body(random)
        outcome = check(text, *inputs)
        assert isinstance(outcome, list), (text, outcome)


# Invalid bodies: the first error is reported.

TOKENS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b" ", b"\n", b"\0", b"\\", b"-", b"+", b".", b"0"),
    *(b"1", b"9", b"e", b"E5", b"true", b"false", b"null", b"NaN", b"[]", b"{}", b'""', b'"a"'),
    *(b"\x80", b"\xc3\xa9", b"\xff", b"\xed\xa0\x80", b"\\u", b"\\ud800", b"\\n", b"\x1f", b"x"),
    *(b"1.5", b"300", b"1e400", b"-1", b"18446744073709551616", b",1,2", b"[1]", b"\x0c", b"/**/"),
]


def damage(random: Random, text: bytes) -> bytes:
    at = random.randint(0, len(text))
    to = min(at + random.choice([0, 0, 1, 1, 1, 2, 5, 20]), len(text))
    kind = random.random()
    if kind < 0.5:
        return text[:at] + random.choice(TOKENS) + text[to:]
    if kind < 0.6:
        return text[:at] + bytes([random.randrange(256)]) + text[to:]
    if kind < 0.7:
        return text[:at]
    if kind < 0.8:
        return text[:at] + text[at:to] * 2 + text[to:]
    return text[:at] + text[to:]


@given(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=fewer(300))
def test_what_is_damaged_has_the_same_verdict(random: Random, times: int) -> None:
    text, inputs = some_body(random)
    for _ in range(times):
        text = damage(random, text)
    check(text, *inputs)


@pytest.mark.parametrize("seed", range(fewer(20)))
def test_many_that_are_damaged_have_the_same_verdict(seed: int) -> None:
    random = Random(seed)
    for _ in range(50):
        text, inputs = some_body(random)
        for _ in range(10):
            check(damage(random, text), *inputs)


# {"b64": …}.


def some_base64(random: Random, one: TextInput) -> str:
    """A {"b64": …}, mostly one that the input accepts."""
    type_name = one.declared.type.name
    shape = [
        random.choice([1, 2, 3]) if dim is None or isinstance(dim, str) else dim
        for dim in one.declared.dims
    ]
    shape = shape[random.choice([0, 0, 0, 1]) :]
    if random.random() < 0.1:
        shape.append(random.choice([0, 2]))
    sent_as = (
        type_name
        if random.random() < 0.7
        else random.choice([*FLOATS, *INTEGERS, "bool", "string"])
    )
    width = max(BY_NAME[sent_as].nbytes, 1)
    count = math.prod(shape) * width + random.choice([0, 0, 0, 0, 1, -1])
    data = bytes(
        random.choice([0, 1, 1, 60, 64, 255] if sent_as != "bool" else [0, 1]) for _ in range(count)
    )
    text = base64.b64encode(data).decode()
    if random.random() < 0.1:
        at = random.randint(0, len(text))
        text = text[:at] + random.choice("=A-_ é") + text[at + 1 :]
    members = [f'"b64":{space(random)}{spell_string(random, text, random.choice([0, 0, 0.1]))}']
    if random.random() < (0.2 if type_name == "string" else 0.9):
        sizes = ",".join(space(random) + spell_integer(random, size) for size in shape)
        members.append(f'"shape":{space(random)}[{sizes}{space(random)}]')
    if sent_as != type_name or random.random() < 0.2:
        members.append(f'"dtype"{space(random)}:"{sent_as}"')
    random.shuffle(members)
    return f"{{{space(random)}{','.join(members)}{space(random)}}}"


@pytest.mark.parametrize("seed", range(fewer(20)))
def test_base64(seed: int) -> None:
    random = Random(seed)
    accepted = 0
    for _ in range(100):
        one = some_input(random, "x")
        value = some_base64(random, one)
        if random.random() < 0.2:
            value = f"[{value},{value}]"
        text = f'{{"x":{value}}}'.encode()
        accepted += isinstance(check(text, one), list)
        check(damage(random, text), one)
    assert accepted > 10


@pytest.mark.parametrize("seed", range(fewer(20)))
def test_strings_in_base64(seed: int) -> None:
    random = Random(seed)
    one = an_input("string", "n", max_characters=random.choice([None, 4]))
    items = []
    for _ in range(random.randint(1, 9)):
        data = bytes(random.choice(b"ab\0\x80\xc3\xa9\xff") for _ in range(random.randint(0, 5)))
        items.append(f'{{"b64":"{base64.b64encode(data).decode()}"}}')
        items.append(spell_string(random, "aé\n"))
    check(f'{{"x":[{",".join(items)}]}}'.encode(), one)
    check(f'{{"x":[{",".join(items)}]}}'.encode(), an_input("string", 3))


@pytest.mark.parametrize("type_name", ["float16", "bfloat16", "float32", "float64"])
def test_null_is_nan(type_name: str) -> None:
    for dims in (("n",), ("n", 1), (1,), (), ("n", "m"), (2, 2)):
        one = an_input(type_name, *dims, null_is_nan=True)
        for value in (
            "null",
            "[null]",
            "[1,null ,2.5]",
            "[[null],[1]]",
            "[[1,2],[null,3]]",
            "[[null]",
        ):
            check(f'{{"x":{value}}}'.encode(), one)


def anything(random: Random, depth: int) -> str:
    """Any JSON value, most likely one that no input accepts."""
    kind = random.random()
    if depth == 0 or kind < 0.5:
        if random.random() < 0.7:
            return random.choice(["0", "1", "2", "1.5", "1.0", "300", "-1", "1e400", "0.0"])
        return random.choice(
            ["null", '{"b64":"AA=="}', "true", "false", '"a"', '""', '"\\u00e9é"', "{}", '{"a":1}']
        )
    items = [anything(random, depth - 1) for _ in range(random.choice([0, 1, 2, 2, 3]))]
    if random.random() < 0.5:
        items = items[:1] * len(items)  # sibling lists of equal length
    return f"[{','.join(space(random) + item for item in items)}]"


@pytest.mark.parametrize("seed", range(fewer(20)))
def test_values_of_any_form(seed: int) -> None:
    random = Random(seed)
    for _ in range(300):
        one = some_input(random, "x")
        check(f'{{"x":{anything(random, random.randint(0, 4))}}}'.encode(), one)


@given(st.binary(max_size=60))
def test_any_bytes_have_the_same_verdict(text: bytes) -> None:
    for one in (an_input("float32", "n"), an_input("string", name="")):
        check(text, one)
        check(b'{"x":' + text, one)
        check(b'{"":' + text + b"}", one)
        check(b'{"":"' + text + b'"}', one)


@given(st.text(alphabet='{}[]",:0123456789.-+eE \\u/tru', max_size=30))
@settings(max_examples=fewer(300))
def test_any_text_of_json_has_the_same_verdict(text: str) -> None:
    for one in (an_input("float32", "n"), an_input("uint8"), an_input("string", "n", "m")):
        check(b'{"x":' + text.encode() + b"}", one)
        check(b'{"x":[' + text.encode() + b"]}" + b" " * 100, one)


# Bodies truncated or changed at every byte.

WHOLE: list[tuple[bytes, tuple[TextInput, ...]]] = [
    (b"{}", ()),
    (
        b' \t\r\n{ "x" : [ ] , "y":[[],[]]} \n',
        (an_input("int8", "n", batched=False), an_input("bool", name="y")),
    ),
    (
        b'{"x":[1,-2.5,3e0 , 0.25,10,100,0.30000000000000004,1E+2],"y":true}',
        (an_input("float32", "n"), an_input("bool", name="y")),
    ),
    (b'{"x":[[101,7592],[0,-1]]' + b" " * 100 + b"}", (an_input("int64", "n", "m"),)),
    (
        '{"t\\u00e9":["é","\\ud83d\\ude00\\n\\"","😀 and many more characters","",'
        '"\\u0000\\/"]}'.encode(),
        (an_input("string", "n", name="té"),),
    ),
    (b'{"x":[true,false,1,0.0],"y":"text"}', (an_input("bool", 4), an_input("string", name="y"))),
    (b'{"x":' + b"[" * 32 + b"5" + b"]" * 32 + b"}", (an_input("uint64"),)),
    (b'{"x":[' + b"0.12345678,1.23456789,12345678," * 8 + b"1]}", (an_input("float64", "n"),)),
]


@pytest.mark.parametrize("case", range(len(WHOLE)))
def test_no_part_of_a_body_is_a_body(case: int) -> None:
    text, inputs = WHOLE[case]
    end = len(text.rstrip())
    for at in range(len(text) + 1):
        outcome = check(text[:at], *inputs)
        assert isinstance(outcome, list) if at >= end else isinstance(outcome, Syntax), at


@pytest.mark.parametrize("case", range(len(WHOLE)))
def test_every_byte_may_be_left_out_or_be_another(case: int) -> None:
    text, inputs = WHOLE[case]
    random = Random(case)
    for at in range(len(text)):
        check(text[:at] + text[at + 1 :], *inputs)
        for other in (b"\0", b'"', b",", b"]", b"}", b"[", b"9", b".", b"\xc3", b" ", b"\\"):
            check(text[:at] + other + text[at + 1 :], *inputs)
        check(text[:at] + bytes([random.randrange(256)]) + text[at:], *inputs)


@pytest.mark.parametrize(
    ("text", "byte"),
    [
        (b"", 0),
        (b"  ", 2),
        (b"\xef\xbb\xbf{}", 0),
        (b"{", 1),
        (b"{,}", 1),
        (b"{x:1}", 1),
        (b"{'x':1}", 1),
        (b'{"x"}', 4),
        (b'{"x":}', 5),
        (b'{"x":,', 5),
        (b'{"x":[1]', 8),
        (b'{"x":[1],}', 9),
        (b'{"x":[1,]}', 8),
        (b'{"x":[,1]}', 6),
        (b'{"x":[1 2]}', 8),
        (b'{"x":[1]]}', 8),
        (b'{"x":[1]}}', 9),
        (b'{"x":[1]} {}', 10),
        (b'{"x":[1]}\0', 9),
        (b'{"x":[1]\0}', 8),
        (b'{"x":[1\0]}', 7),
        (b'{"x":\0[1]}', 5),
        (b'\0{"x":[1]}', 0),
        (b'{"x":[1],\0}', 9),
        (b'{"x":[01]}', 7),
        (b'{"x":[-01]}', 8),
        (b'{"x":[00]}', 7),
        (b'{"x":[1.]}', 8),
        (b'{"x":[1.e1]}', 8),
        (b'{"x":[.5]}', 6),
        (b'{"x":[+1]}', 6),
        (b'{"x":[-]}', 7),
        (b'{"x":[--1]}', 7),
        (b'{"x":[1e]}', 8),
        (b'{"x":[1e+]}', 9),
        (b'{"x":[1e+-1]}', 9),
        (b'{"x":[1.5.5]}', 9),
        (b'{"x":[1e5.5]}', 9),
        (b'{"x":[0x10]}', 7),
        (b'{"x":[1_000]}', 7),
        (b'{"x":[NaN]}', 6),
        (b'{"x":[Infinity]}', 6),
        (b'{"x":[-Infinity]}', 7),
        (b'{"x":[tru]}', 6),
        (b'{"x":[nul', 6),
        (b'{"x":[True]}', 6),
        (b'{"x":[1\x0c]}', 7),
        (b'{"x":[1\xc2\xa0]}', 7),
        (b'{"x":[1/**/]}', 7),
        (b'{"x\n":[1]}', 3),
        (b'{"x\\":[1]}', 10),
        (b'{"\\x":[1]}', 2),
        (b'{"\\u12g4":[1]}', 6),
        (b'{"\\u12', 6),
        (b'{"\\', 2),
        (b'{"\\ud800":[1]}', 2),
        (b'{"\\udc00":[1]}', 2),
        (b'{"\\ud800\\ud800":[1]}', 2),
        (b'{"\\ud800\\u12":[1]}', 12),
        (b'{"a\xff":[1]}', 3),
        (b'{"a\xc0\x80":[1]}', 3),
        (b'{"a\xe0\x80\x80":[1]}', 3),
        (b'{"a\xed\xa0\x80":[1]}', 3),
        (b'{"a\xf4\x90\x80\x80":[1]}', 3),
        (b'{"a\xf8\x88\x80\x80\x80":[1]}', 3),
        (b'{"a\xe2\x82":[1]}', 3),
        (b'{"a\xe2\x82', 3),
    ],
    ids=repr,
)
def test_a_fault_of_the_text_is_at_its_first_byte(text: bytes, byte: int) -> None:
    one = an_input("float32", "n")
    assert check(text, one) == Syntax(byte)
    longer = text + b" " * 100
    assert check(longer, one) == (Syntax(byte) if byte < len(text) else expected(longer, [one]))


@pytest.mark.parametrize(
    "text", [b"[]", b"[", b"1", b"-", b'"', b"true!", b"null", b" false", b"0x"]
)
def test_what_starts_as_another_value_is_no_object(text: bytes) -> None:
    assert refused(check(text, an_input("float32"))).error is InvalidBodyError


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2, 3, 4]", "Invalid shape for 'x': expected [3], got [4]"),
        ('[1, 2, 3, null, 1e999, "\\u00e9", true]', "Invalid shape for 'x': expected [3], got [7]"),
        ('[1, 2, 3, 4, {"b64": "?"}]', "Invalid shape for 'x': expected [3], got [5]"),
        ("null", "Invalid input type for 'x': expected array, got null"),
        # Each has a second error after the first.
        ('["a", nonsense', "Invalid value for 'x' at [0]: expected number, got string"),
        ('["\\x"]', "Invalid value for 'x' at [0]: expected number, got string"),
        ("[1, {", "Invalid value for 'x' at [1]: expected number, got object"),
        ("[1, [", "Invalid value for 'x' at [1]: expected number, got array"),
        ("[1, 300, nonsense", "Invalid value for 'x' at [1]: 300 is out of range for uint8"),
        ("[1, 300x", "Invalid value for 'x' at [1]: 300 is out of range for uint8"),
        ("[1, 1.5.5]", "Invalid value for 'x' at [1]: 1.5 is not an integer"),
        ("[1, 2, 3, 4, -", "Invalid shape for 'x': expected [3], got more"),
        ('[1, 2, 3, "\\x', "Invalid shape for 'x': expected [3], got more"),
        ("[1, 2, 3, [", "Invalid shape for 'x': expected [3], got more"),
        ("[1, 2] nonsense", "Invalid shape for 'x': expected [3], got [2]"),
        ("[[", "Invalid shape for 'x': expected [3], got more than 1 axis"),
        ('"\\x', "Invalid input type for 'x': expected array"),
        ("{nonsense", "Invalid input type for 'x': expected array"),
        ("-", "Invalid input type for 'x': expected array"),
    ],
)
def test_the_first_fault_of_the_text_is_named(value: str, message: str) -> None:
    assert refused(check(f'{{"x":{value}'.encode(), an_input("uint8", 3))).message == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["a", "b", "\\x"]', "Invalid shape for 'x': expected [2], got more"),
        ('["a", "b", "', "Invalid shape for 'x': expected [2], got more"),
        ('"\\x', "Invalid input type for 'x': expected array"),
        (
            '["longer than it may be", "\\x"]',
            "Invalid value for 'x' at [0]: expected at most 9 characters, got 21",
        ),
    ],
)
def test_a_string_may_not_stand_there_whatever_it_is(value: str, message: str) -> None:
    one = an_input("string", 2, max_characters=9)
    assert refused(check(f'{{"x":{value}}}'.encode(), one)).message == message


# Names.


def test_names_are_found_whatever_their_order() -> None:
    inputs = [an_input("int32", name=f"input {i}") for i in range(200)]
    random = Random(0)
    for names in (list(range(200)), list(range(199, -1, -1)), random.sample(range(200), 200)):
        text = body(random, [(f"input {i}", str(i)) for i in names])
        outcome = check(text, *inputs)
        assert isinstance(outcome, list)
        assert len(outcome) == 200


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_be_escaped_in_any_way(name: str) -> None:
    inputs = [an_input("int32", name=one) for one in NAMES]
    for escapes in (0, 0.5, 1):
        key = spell_string(Random(1), name, escapes)
        assert isinstance(check(f"{{{key}:5}}".encode(), *inputs), list)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"x":1,"x":', DuplicateInputError),
        ('{"x":1,"\\u0078"', DuplicateInputError),
        ('{"x":1,"y":2,"x":2}', DuplicateInputError),
        ('{"X"', UnknownInputError),
        ('{"x ":1}', UnknownInputError),
        ('{"":1}', UnknownInputError),
        ('{"x\\u0000":1}', UnknownInputError),
        ('{"xy":1}', UnknownInputError),
        ('{"\\ud83d\\ude00":1}', UnknownInputError),
        ('{"' + "n" * 100_000 + '":1}', UnknownInputError),
        ('{"' + "\\u00e9" * 1000 + '":1}', UnknownInputError),
        ('{"text":"a","ids"', ClashingInputsError),
        ('{"ids":1,"y":2,"text":nonsense}', ClashingInputsError),
        ('{"x":1,"made":2,"ids":3,"text":4}', ClashingInputsError),
        ('{"text":"a","text2":"b","made":1}', ClashingInputsError),
    ],
)
def test_a_name_at_fault_is_named(text: str, error: type[Exception]) -> None:
    inputs = [
        an_input("int32", name="x"),
        an_input("int32", name="y"),
        an_input("string", name="text", group=1),
        an_input("string", name="text2", group=1),
        an_input("int32", name="ids", group=2),
        an_input("int32", name="made", group=2),
    ]
    assert refused(check(text.encode(), *inputs)).error is error


def test_texts_stand_together_and_so_does_what_is_made_of_them() -> None:
    inputs = [an_input("string", name=name, group=1) for name in "ab"]
    inputs += [an_input("int32", name=name, group=2) for name in "cd"]
    inputs += [an_input("int32", name="e")]
    assert isinstance(check(b'{"b":"","e":1,"a":""}', *inputs), list)
    assert isinstance(check(b'{"d":1,"e":1,"c":2}', *inputs), list)


# Strings.


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5), randoms)
def test_strings_are_kept(texts: list[str], random: Random) -> None:
    written = nest(random, [len(texts)], [spell_string(random, text) for text in texts])
    outcome = check(f'{{"x":{written}}}'.encode(), an_input("string", "n", batched=False))
    assert elements(outcome) == texts


def test_every_character_is_kept() -> None:
    points = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 97)]
    one = an_input("string", "n")
    for start in range(0, len(points), 4096):
        text = "".join(map(chr, points[start : start + 4096]))
        for ascii_only in (True, False):
            written = json.dumps({"x": [text]}, ensure_ascii=ascii_only).encode()
            assert elements(read(written, [one])) == [text]


@pytest.mark.parametrize(
    "special", ["\\n", "é", "😀", "\\ud83d\\ude00", '\\"', "\\\\", "\x01", "\\x", "\n", "\x7f"]
)
def test_strings_of_every_length_with_one_thing_anywhere(special: str) -> None:
    one = an_input("string", "n", max_characters=20)
    for size in range(24):
        for at in range(size + 1):
            text = "a" * at + special + "b" * (size - at)
            check(f'{{"x":["{text}"]}}'.encode(), one)
            if at % 8 in (0, 7):
                check(f'{{"x":["{text}'.encode(), one)


@pytest.mark.parametrize("damaged", ["é", "ࠀ", "😀"])
def test_characters_cut_or_broken_anywhere(damaged: str) -> None:
    one = an_input("string", "n")
    raw = damaged.encode()
    for cut in range(1, len(raw)):
        for offset in range(10):
            start = b'{"x":["' + b"a" * offset + raw[:cut]
            for rest in (b"", b'"]}', b'a"]}', b'\x80"]}', raw + b'"]}', b"\xff" + b"a" * 9):
                check(start + rest, one)


def test_every_first_and_second_byte_of_a_character() -> None:
    seconds = (0x00, 0x22, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    rests = (b"", b"\x80", b"\x80\x80", b"\xbf\xbf", b"\x80a", b"\x7f\x80", b"\x80" * 4)
    one = an_input("string", "n")
    for first in range(0x80, 0x100):
        for second in seconds:
            for rest in rests:
                check(b'{"x":["' + bytes([first, second]) + rest + b'"]}', one)
                check(b'{"' + bytes([first, second]) + rest + b'":1}', one)


@pytest.mark.parametrize("most", [0, 1, 7, 8, 9, 100])
def test_characters_are_counted_not_bytes(most: int) -> None:
    one = an_input("string", max_characters=most)
    for character in ("a", "é", "ࠀ", "😀", "\\n", "\\u00e9", "\\u0800", "\\ud83d\\ude00"):
        for size in (most, most + 1):
            outcome = check(f'{{"x":"{character * size}"}}'.encode(), one)
            assert isinstance(outcome, list) == (size <= most)


# Lists.


@pytest.mark.parametrize("dims", [(), ("n",), ("n", "m"), (1, 2, 3), (2, "n")])
def test_deep_lists(dims: tuple[Dim, ...]) -> None:
    for type_name in ("float32", "string", "bool"):
        one = an_input(type_name, *dims)
        for depth in (*range(36), 64, 1000, 1_000_000):
            for inside in (b"", b"1", b'"a"', b"true", b"null", b"{", b","):
                if depth > 64 and inside != b"1":
                    continue
                check(b'{"x":' + b"[" * depth + inside + b"]" * depth + b"}", one)
                check(b'{"x":' + b"[" * depth + inside, one)


def test_objects_inside_values_are_refused_however_deep() -> None:
    for text in (b'{"a":' * 100_000, b'[{"a":' * 100_000, b"[" * 31 + b'{"a":'):
        assert isinstance(check(b'{"x":' + text, an_input("float32")), Refusal)


@pytest.mark.parametrize("type_name", ["float32", "int64", "string", "bool"])
def test_lists_that_are_cut_at_fixed_sizes(type_name: str) -> None:
    element = {"string": '"a"', "bool": "true"}.get(type_name, "5")
    for size in (1, 2, 3, 4095, 4096, 4097, 9000):
        for count in (size - 1, size, size + 1, size + 5000):
            text = f'{{"x":[{",".join([element] * count)}]}}'.encode()
            outcome = read(text, [an_input(type_name, size)])
            assert isinstance(outcome, list) == (count == size or (size == 1 and count == 1))
    for rows in ("[[1,2],[3,4]]", "[[1,2],[3,4,5]]", "[[1,2,3],[4]]", "[[1],[2]]", "[1,2,3]"):
        check(f'{{"x":{rows}}}'.encode(), an_input(type_name, 2, 2))
        check(f'{{"x":{rows}}}'.encode(), an_input(type_name, "n", 2))


@pytest.mark.parametrize(
    "bad", ["null", "true", '"a"', "{}", "[]", "300", "1.5", "-1", "1e999", "01", "1.x", "-", "x"]
)
def test_a_fault_anywhere_in_a_long_list_is_placed(bad: str) -> None:
    one = an_input("uint8", "n", "m")
    row = [str(i % 256) for i in range(5000)]
    for at in (0, 1, 2, 7, 8, 30, 31, 32, 33, 63, 64, 65, 4094, 4095, 4096, 4097, 4999):
        damaged = [*row[:at], bad, *row[at + 1 : at + 100]]
        outcome = check(f'{{"x":[[{",".join(damaged)}]]}}'.encode(), one)
        assert isinstance(outcome, Refusal | Syntax)
        if isinstance(outcome, Refusal) and bad != "[]":  # it fixes the rank where it is first
            assert outcome.path == (0, at)


def test_a_list_of_lists_of_every_small_size() -> None:
    one = an_input("float64", "n", "m", batched=False)
    for rows in range(9):
        for columns in range(40):
            numbers = [[f"{i}.{j}" for j in range(columns)] for i in range(rows)]
            lists = ",".join(f"[{','.join(row)}]" for row in numbers)
            check(f'{{"x":[{lists}]}}'.encode(), one)


def test_the_tests_see_all_outcomes() -> None:
    random = Random(0)
    seen = set()
    for _ in range(300):
        text, inputs = some_body(random)
        seen.add(type(read(damage(random, text), inputs)).__name__)
    assert seen == {"list", "Refusal", "Syntax"}
