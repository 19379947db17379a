"""Grammars that were written to do harm, as the fields of a request."""

import json
from collections.abc import Iterator

Body = dict[str, object]


def nested(count: int, before: str, inside: str, after: str) -> str:
    return before * count + inside + after * count


def deep() -> Iterator[Body]:
    """Nested and recursive schemas (GR06)."""
    for count in (10, 100, 10_000):
        yield {"guided_json": nested(count, '{"properties":{"a":', "{}", "}}")}
        yield {"guided_json": nested(count, '{"items":', "{}", "}")}
        yield {"guided_json": nested(count, '{"anyOf":[', "{}", "]}")}
        yield {"guided_json": nested(count, '{"allOf":[{"type":"object"},', "{}", "]}")}
        yield {"guided_json": nested(count, "[", "", "]")}
    for count in (10, 100, 900, 5000):
        definitions = {
            f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % count}"}, {"$ref": f"#/$defs/d{i * 7 % count}"}]}
            for i in range(count)
        }
        yield {"guided_json": {"$defs": definitions, "$ref": "#/$defs/d0"}}
        chain = {f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(count)}
        yield {"guided_json": {"$defs": {**chain, f"d{count}": {}}, "$ref": "#/$defs/d0"}}
    yield {"guided_json": {"$ref": "#"}}
    yield {"guided_json": {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}}
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    yield {"guided_json": {"$defs": {**doubling, "d40": {}}, "$ref": "#/$defs/d0"}}


def large() -> Iterator[Body]:
    """Much of everything."""
    for count in (1000, 10_000, 50_000):
        yield {"guided_json": {"enum": [f"v{i}" for i in range(count)]}}
        yield {"guided_json": {"properties": {f"p{i}": {"type": "string"} for i in range(count)}}}
        yield {"guided_json": {"required": [f"p{i}" for i in range(count)]}}
        yield {"guided_choice": [f"v{i}" for i in range(count)]}
    yield {"guided_json": {"properties": {f"p{i}": {"type": "string", "format": "uri"} for i in range(500)}}}
    yield {"guided_json": {"type": "string", "minLength": 10**5, "maxLength": 10**7}}
    yield {"guided_json": {"type": "array", "minItems": 10**5, "maxItems": 10**7}}
    yield {"guided_json": {"type": "integer", "multipleOf": 999983, "minimum": 0, "maximum": 10**12}}
    yield {"guided_json": {"allOf": [{"multipleOf": 99991}, {"multipleOf": 99989}, {"multipleOf": 99971}]}}
    yield {"guided_json": {"type": "number", "minimum": 1e-300, "maximum": 1e300}}
    yield {"guided_json": {"const": 10**400}}
    for count in (8, 16, 200):
        options = [[{"properties": {f"p{i}": {"const": value}}} for value in (1, 2)] for i in range(count)]
        yield {"guided_json": {"allOf": [{"anyOf": pair} for pair in options]}}
    yield {"guided_json": {"patternProperties": {f"^(a|b{i})*c{{{i}}}.*": {} for i in range(60)}}}
    for text in ("a" * 2**20, "a" * 250_000, "(a|b)" * 20_000):
        yield {"guided_regex": text}
        yield {"guided_grammar": "root ::= " + json.dumps(text)}
        yield {"guided_json": {"pattern": text}}


def regexes() -> Iterator[Body]:
    """Exploding regular expressions (GR01), alone and within a schema."""
    patterns = [
        "(a{1,1000}){1,1000}",
        "(.*a){40}",
        "(a|aa)*b",
        "(x+x+)+y",
        ".*a.{400}",
        "a{1000000}",
        "((a{100}){100}){100}",
        "(((((a{9}){9}){9}){9}){9}){9}",
        "(?i)(.*(foo|bar).*){20}",
        r"[\p{L}]{1,1000}x",
        r"(\w+\s?)*$",
        "(a?){50}a{50}",
        "(.{1,100}){1,100}",
        "(?:" * 500 + "a" + ")" * 500,
        "[" + "".join(chr(0x4E00 + i) for i in range(5000)) + "]{1,100}",
        "|".join(f"w{i}.*" for i in range(5000)),
        "(?=a)*",
        "a**",
        "[z-a]",
        "\\",
        "(?P<n>a)(?P=n)",
        "\x00",
        "(?s:.*)~",
        "a{2,1}",
        "(a)\\1",
    ]
    for pattern in patterns:
        yield {"guided_regex": pattern}
        yield {"guided_json": {"type": "string", "pattern": pattern}}


def grammars() -> Iterator[Body]:
    """Grammars with faults, circles and much of everything (GR04, GR07)."""
    texts = [
        'root ::= root "a"',
        "root ::= root",
        "a ::= b\nb ::= a",
        "root ::= a\na ::= b\nb ::= a",
        "root ::= ",
        "root ::= (",
        "root ::= undefined_rule",
        'root ::= "a" root | root "b" | "c"',
        "root ::= root root | root root root | [a-z]",
        "root ::= (([a-z]*)*)*",
        "root ::= [a-z]{1000000}",
        "root ::= " + "(" * 3000 + '"a"' + ")" * 3000,
        "root ::= " + " ".join(f"r{i}" for i in range(2000)),
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60 ::= "a"',
        "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(60)) + 'r60 ::= "a"',
        "".join(f'r{i} ::= "x{i}"\n' for i in range(1500)) + "root ::= r0",
        "start: start start | start start start | /[a-z]/",
        "start: A\nA: B\nB: A",
        "start: /(.*a){40}/ /(.*b){40}/ /(.*c){40}/",
        "start: ~/a/ & ~/b/ & ~(/(.*x){20}/)",
        "start: <|eos|>",
        "start: <[*]>*",
        "start: @other",
        '%llguidance {"no_forcing": false}\nstart: "aaaaaaaaaa"',
        "%llguidance {\nstart: x",
        'start: %json {"type": "object"} %json {"$ref": "#/nope"}',
        "start: %json " + "[" * 200,
        'start[max_tokens=99999999999999999999]: "a"',
        'start: "\ud83d"',
        "\x00" * 1000,
        "start: " + "a" * 30_000,
        "start: " + '"a" | ' * 5000 + '"b"',
        "start: " + '"a"~1..100000000',
        "%ignore /.*/\nstart: /a/",
        "%ignore /(.*a){30}/\nstart: /a/*",
    ]
    for text in texts:
        yield {"guided_grammar": text}


def odd() -> Iterator[Body]:
    """Values of the wrong kind, contradictions, names to trip over."""
    values = (None, 0, 1.5, [], "", "null", "{", "[1]", "true", True, False, {"type": "text"}, {"type": []})
    for value in values:
        for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"):
            yield {name: value}
    for schema in (
        {"type": ["string", "integer", "null", "array", "object"]},
        {"properties": {"__proto__": {}, "": {}, "\x00": {}, "$ref": {}, "x-guidance": {}}},
        {"x-guidance": {"whitespace_pattern": "(.*a){40}", "lenient": True}},
        {"$id": "http://example.com/a", "$ref": "http://example.com/a"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "http://example.com/none"},
        {"$defs": 1, "definitions": [], "$ref": "#/$defs/a"},
        {"enum": []},
        {"not": {}},
        {"minimum": 1, "maximum": 0},
        {"const": "\ud800"},
        {"required": [1]},
        {"properties": []},
        {"additionalProperties": {"additionalProperties": {"$ref": "#"}}},
    ):
        yield {"guided_json": schema}
        yield {"structured_outputs": {"json": schema, "regex": "a"}}


def bodies() -> list[Body]:
    """All of them."""
    return [body for kind in (deep, large, regexes, grammars, odd) for body in kind()]
