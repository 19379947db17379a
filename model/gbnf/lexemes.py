"""Which parts of a grammar can be lexemes: texts that a lexer, which always takes the longest, cuts rightly.

The cost of following a grammar is one of its lexemes. Parts without recursion, the largest there are, are taken for
lexemes first. One of them is wrong if a text of a lexeme could be followed by a character with which that one would go
on (as `[a-z]+` in `[a-z]+ "e"`): it's cut into its parts, in the end into characters, which are never wrong.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import groupby

from model.gbnf.automaton import Automaton, Effort
from model.gbnf.syntax import Char, Choice, Expression, Lexeme, Ref, Repeat, Rules, Sequence

# Of a lexeme: how deep its expression may be with those of its rules in place of their names, and how many characters
# it may have so.
_MAX_DEPTH = 100
_MAX_CHARS = 50_000


def find_lexemes(rules: Rules) -> Rules:
    """The rules in which each character is part of a lexeme.

    Of a grammar for which that takes too much effort, each character is one.
    """
    regular = _without_recursion(rules)
    if "root" in regular:  # nothing comes after it
        return {"root": Lexeme(rules["root"])}
    effort = Effort()
    try:
        parts = {name: _marked(rule, regular) for name, rule in rules.items() if name not in regular}
        while wrong := _wrong(parts, rules, effort):
            parts = {name: _cut(part, wrong, rules) for name, part in parts.items()}
    except Effort.Exhausted:
        return {name: _characters(rule) for name, rule in rules.items()}
    return parts


def _without_recursion(rules: Rules) -> set[str]:
    """Rules that lead to no recursion, and are small enough for a lexeme."""
    open_refs = {name: set(_refs(rule)) for name, rule in rules.items()}
    used_in = defaultdict(list)
    for name, refs in open_refs.items():
        for ref in refs:
            used_in[ref].append(name)
    depths: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def measure(expression: Expression) -> tuple[int, int]:
        if isinstance(expression, Ref):
            return 1 + depths[expression.name], sizes[expression.name]
        inside = [measure(part) for part in _parts(expression)]
        depth = 1 + max((depth for depth, _ in inside), default=0)
        return depth, isinstance(expression, Char) + sum(size for _, size in inside)

    ready = [name for name, refs in open_refs.items() if not refs]
    while ready:
        name = ready.pop()
        depth, size = measure(rules[name])
        if depth > _MAX_DEPTH or size > _MAX_CHARS:
            continue
        depths[name], sizes[name] = depth, size
        for user in used_in[name]:
            open_refs[user].discard(name)
            if not open_refs[user]:
                ready.append(user)
    return set(depths)


def _refs(expression: Expression) -> Iterator[str]:
    if isinstance(expression, Ref):
        yield expression.name
    for part in _parts(expression):
        yield from _refs(part)


def _parts(part: Expression) -> tuple[Expression, ...]:
    match part:
        case Sequence(parts) | Choice(parts):
            return parts
        case Repeat(of):
            return (of,)
    return ()


def _marked(expression: Expression, regular: set[str]) -> Expression:
    """The expression with its largest parts that have no recursion as lexemes."""

    def is_regular(part: Expression) -> bool:
        return part.name in regular if isinstance(part, Ref) else all(map(is_regular, _parts(part)))

    def marked(part: Expression) -> Expression:
        if is_regular(part):
            return Lexeme(part)
        if isinstance(part, Sequence):
            return Sequence(tuple(runs(part.parts)))
        return _rebuilt(part, marked)

    def runs(parts: Iterable[Expression]) -> Iterator[Expression]:
        for are_regular, run in groupby(parts, is_regular):
            if not are_regular:
                yield from map(marked, run)
                continue
            first, *others = run
            yield Lexeme(Sequence((first, *others)) if others else first)

    return marked(expression)


def _characters(expression: Expression) -> Expression:
    """The expression with each character as a lexeme."""
    return Lexeme(expression) if isinstance(expression, Char) else _rebuilt(expression, _characters)


def _cut(part: Expression, wrong: set[Lexeme], rules: Rules) -> Expression:
    """The part with these lexemes cut, each once."""
    if isinstance(part, Lexeme):
        return _pieces(part.of, rules) if part in wrong else part
    return _rebuilt(part, lambda inner: _cut(inner, wrong, rules))


def _pieces(of: Expression, rules: Rules) -> Expression:
    match of:
        case Ref(name):
            return _pieces(rules[name], rules)
        case Sequence(parts) if len(parts) > 2 and not all(isinstance(part, Char) for part in parts):
            return Sequence((Lexeme(Sequence(parts[:-1])), Lexeme(parts[-1])))
    return _rebuilt(of, Lexeme)


def _rebuilt(expression: Expression, change: Callable[[Expression], Expression]) -> Expression:
    """The expression with each of its parts changed."""
    match expression:
        case Sequence(parts):
            return Sequence(tuple(map(change, parts)))
        case Choice(options):
            return Choice(tuple(map(change, options)))
        case Repeat(of, least, most):
            return Repeat(change(of), least, most)
    return expression


def _wrong(parts: Rules, rules: Rules, effort: Effort) -> set[Lexeme]:
    """Lexemes that would go on where another one, or they themselves, may end."""
    lexemes = list(dict.fromkeys(lexeme for part in parts.values() for lexeme in _lexemes(part)))
    automaton = Automaton([lexeme.of for lexeme in lexemes], rules, effort)
    follow = _Follow(parts, lexemes, automaton, effort).follow
    return {lexemes[index] for index in automaton.too_long(follow)}


def _lexemes(part: Expression) -> Iterator[Lexeme]:
    if isinstance(part, Lexeme):
        yield part
    for inner in _parts(part):
        yield from _lexemes(inner)


class _Follow:
    """The characters, as sets of the automaton's, that may come after each lexeme."""

    def __init__(self, parts: Rules, lexemes: list[Lexeme], automaton: Automaton, effort: Effort) -> None:
        self.parts = parts
        self.numbers = {lexeme: number for number, lexeme in enumerate(lexemes)}
        self.automaton = automaton
        self.effort = effort
        self.users = defaultdict[str, set[str]](set)
        for name, part in parts.items():
            for ref in _refs(part):
                self.users[ref].add(name)
        self.firsts = dict.fromkeys(parts, 0)
        self.can_be_empty = dict.fromkeys(parts, False)
        self._find_firsts()
        self.after_rule = dict.fromkeys(parts, 0)
        self.follow = [0] * len(lexemes)
        self.changed = set(parts)
        while self.changed:
            name = self.changed.pop()
            self._go_through(parts[name], self.after_rule[name])

    def _find_firsts(self) -> None:
        changed = set(self.parts)
        while changed:
            name = changed.pop()
            found = self._first(self.parts[name])
            if found != (self.firsts[name], self.can_be_empty[name]):
                self.firsts[name], self.can_be_empty[name] = found
                changed |= self.users[name]

    def _first(self, part: Expression) -> tuple[int, bool]:
        """The characters with which its texts may begin, and whether one is empty."""
        self.effort.spend(1)
        match part:
            case Lexeme():
                return self.automaton.begin(self.numbers[part])
            case Ref(name):
                return self.firsts[name], self.can_be_empty[name]
            case Repeat(of, least):
                first, is_empty = self._first(of)
                return first, is_empty or least == 0
            case Choice(options):
                found = [self._first(option) for option in options]
                return reduce(int.__or__, (first for first, _ in found)), any(is_empty for _, is_empty in found)
            case Sequence(inner):
                firsts = 0
                for one in inner:
                    first, is_empty = self._first(one)
                    firsts |= first
                    if not is_empty:
                        return firsts, False
                return firsts, True
        raise AssertionError("characters are in lexemes")

    def _go_through(self, part: Expression, after: int) -> None:
        """Note what follows the lexemes and rules of a part, after which these characters may come."""
        self.effort.spend(1)
        match part:
            case Lexeme():
                self.follow[self.numbers[part]] |= after
            case Ref(name):
                if after & ~self.after_rule[name]:
                    self.after_rule[name] |= after
                    self.changed.add(name)
            case Repeat(of, _, most):
                again = 0 if most == 1 else self._first(of)[0]
                self._go_through(of, after | again)
            case Choice(options):
                for option in options:
                    self._go_through(option, after)
            case Sequence(inner):
                for one in reversed(inner):
                    self._go_through(one, after)
                    first, is_empty = self._first(one)
                    after = first | after if is_empty else first
