"""Parse PDDL into nested forms with line numbers, with the checks that all of PDDL's lists share.

Source("blocks.pddl").read("(define (domain blocks) ...)") -> Form(["define", Form(["domain", "blocks"]), ...])
Source("blocks.pddl").read("(define (domain blocks)")      -> blocks.pddl line 1: this parenthesis is never closed
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from plantune_lite.terminal import printable
from plantune_lite.types import PlantuneError

OBJECT = "object"  # the type that all others descend from
_TOKEN = re.compile(r"[()]|[^\s()]+")
_NAME = re.compile(r"[a-z][\w-]*")
_VARIABLE = re.compile(r"\?[a-z][\w-]*")
# What begins a section, and so is inside no other one.
_SECTIONS = (":requirements", ":types", ":constants", ":predicates", ":action", ":domain", ":objects", ":init", ":goal")
_DEEPEST = 40  # nested parentheses: no PDDL has so many, and the functions that walk them are recursive


class PddlError(PlantuneError, ValueError):
    """PDDL that cannot be read: file, line, what is wrong."""


class Word(str):
    """A word and its line."""

    line: int


class Form(list["Word | Form"]):
    """A list in parentheses and the line it opens on."""

    line: int


@dataclass(frozen=True)
class Source:
    """Parser of one PDDL text; its errors name the file and line."""

    file: str

    def error(self, at: "Word | Form | int", what: str) -> PddlError:
        """Build an error with file and line."""
        return PddlError(f"{self.file} line {at if isinstance(at, int) else at.line}: {what}")

    def read(self, text: str) -> Form:
        """Parse the one form of a text."""
        forms = list(self._forms(text))
        if len(forms) != 1:
            raise self.error(forms[1] if forms else 1, f"one (define ...) is expected, not {len(forms)}")
        return forms[0]

    def _forms(self, text: str) -> Iterator[Form]:
        inside: list[Form] = []
        for number, line in enumerate(text.splitlines(), 1):
            for token in _TOKEN.findall(line.partition(";")[0].lower()):
                if token == "(":
                    form = Form()
                    form.line = number
                    if inside:
                        inside[-1].append(form)
                    inside.append(form)
                    if len(inside) > _DEEPEST:
                        raise self.error(number, f"more than {_DEEPEST} parentheses are open")
                elif not inside:
                    raise self.error(number, f"{shown(token)} is outside all parentheses")
                elif token == ")":
                    closed = inside.pop()
                    if not inside:
                        yield closed
                else:
                    word = Word(token)
                    word.line = number
                    inside[-1].append(word)
                    if token in _SECTIONS and len(inside[-1]) == 1 and len(inside) > 2:
                        raise self.error(
                            inside[1], f"this parenthesis is not closed where ({token} begins, line {number}"
                        )
        if inside:
            raise self.error(inside[-1], "this parenthesis is never closed")

    def form(self, form: "Word | Form", what: str) -> Form:
        """Require a form that begins with a word."""
        if not isinstance(form, Form) or not form or not isinstance(form[0], Word):
            raise self.error(form, f"{what} is expected in parentheses, not {shown(form)}")
        return form

    def head(self, form: "Word | Form", what: str) -> Word:
        """Return the word that a form begins with."""
        first = self.form(form, what)[0]
        assert isinstance(first, Word)
        return first

    def name(self, word: "Word | Form", what: str) -> str:
        """Require a word that is a name."""
        if not isinstance(word, Word) or not _NAME.fullmatch(word):
            raise self.error(word, f"{what} is expected, a letter first, not {shown(word)}")
        return str(word)

    def names(self, words: Sequence["Word | Form"], types: Mapping[str, str] | None) -> dict[str, str]:
        """Parse `a b - block c` to {"a": "block", "b": "block", "c": "object"}; no `types`: any name may be a type."""
        return self._typed(words, types, _NAME, "a name")

    def variables(self, words: Sequence["Word | Form"], types: Mapping[str, str]) -> dict[str, str]:
        """Parse parameters like `names`: `?x ?y - block`."""
        return self._typed(words, types, _VARIABLE, "a parameter such as ?x")

    def _typed(
        self, words: Sequence["Word | Form"], types: Mapping[str, str] | None, pattern: re.Pattern[str], what: str
    ) -> dict[str, str]:
        type_of: dict[str, str] = {}
        untyped: list[str] = []
        rest = iter(words)
        for word in rest:
            if word == "-":
                type = next(rest, None)
                if type is None or not untyped:
                    raise self.error(word, "a '-' must be between names and their type")
                if isinstance(type, Form):
                    raise self.error(type, f"{shown(type)} is not a type: give several types a common parent instead")
                if types is not None and type != OBJECT and type not in types:
                    raise self.error(type, f"no type {shown(type)} in :types; there are {', '.join([OBJECT, *types])}")
                type_of.update(dict.fromkeys(untyped, str(type)))
                untyped = []
            elif not isinstance(word, Word) or not pattern.fullmatch(word):
                raise self.error(word, f"{what} is expected, not {shown(word)}")
            elif word in type_of or word in untyped:
                raise self.error(word, f"{word} is named twice")
            else:
                untyped.append(str(word))
        return type_of | dict.fromkeys(untyped, OBJECT)


def shown(form: "str | Form") -> str:
    """Format a form as it was written, short enough for a message."""
    return printable(_written(form), limit=60) if isinstance(form, list) else repr(printable(str(form), limit=40))


def _written(form: "str | Form") -> str:
    return f"({' '.join(map(_written, form))})" if isinstance(form, list) else str(form)
