"""Parse PDDL text into a domain and a problem in it. For a bad file the error has its name, the line and the reason.

    domain = read_domain(Path("blocks.pddl").read_text(), file="blocks.pddl")
    task = read_task("(define (problem p1) (:domain blocks) (:objects a b) ...)", domain, file="p1.pddl")
    domain.schemas[2]    Schema(name="stack", parameters=(("?x", "object"), ("?y", "object")), needs=(...), ...)
    task.goal            (Literal(atom=("on", "a", "b"), holds=True),)

Supported are STRIPS, types, constants, equality, and negative preconditions and goals; anything else is refused by
name. Action costs (:functions, :metric, (increase (total-cost) ...)) are ignored: here a shorter plan is a better one.
The reader is our own because libraries' errors name no file and often no line, and because a corpus is
thousands of small problems; the planner and the independent validator are a library's (planners.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from plantune_lite.lab.worlds.pddl_forms import OBJECT, Form, PddlError, Source, Word, shown

Atom = tuple[str, ...]  # ("on", "a", "b"), or with parameters ("on", "?x", "?y")
EQUAL = "="
_REQUIREMENTS = (":strips", ":typing", ":negative-preconditions", ":equality", ":action-costs")
__all__ = ["Atom", "Domain", "Literal", "PddlError", "Schema", "Task", "read_domain", "read_task", "write_task"]


@dataclass(frozen=True)
class Literal:
    """An atom that must hold, or must not."""

    atom: Atom
    holds: bool = True

    def __str__(self) -> str:
        return " ".join(self.atom) if self.holds else f"not {' '.join(self.atom)}"


@dataclass(frozen=True)
class Schema:
    """An action with parameters."""

    name: str
    parameters: tuple[tuple[str, str], ...]  # ("?x", its type)
    needs: tuple[Literal, ...]
    adds: tuple[Atom, ...]
    deletes: tuple[Atom, ...]


@dataclass(frozen=True)
class Domain:
    """PDDL domain: types, constants, predicates and actions."""

    name: str
    parents: Mapping[str, str]  # type -> the type it is a kind of
    constants: Mapping[str, str]  # object -> type
    predicates: Mapping[str, tuple[str, ...]]  # the types of its terms
    schemas: tuple[Schema, ...]
    text: str

    def is_a(self, type: str, wanted: str) -> bool:
        """Tell whether a type is another or a subtype of it."""
        while type not in (wanted, OBJECT):
            type = self.parents[type]
        return type == wanted


@dataclass(frozen=True)
class Task:
    """A problem: the objects, what holds at the start, and the goal."""

    domain: Domain
    name: str
    objects: Mapping[str, str]  # the domain's constants among them; object -> type
    start: frozenset[Atom]
    goal: tuple[Literal, ...]
    text: str


# --- a domain ---------------------------------------------------------------------------------------------------------


def read_domain(text: str, *, file: str = "the domain") -> Domain:
    """Parse the domain in a PDDL text."""
    source = Source(file)
    name, sections, actions = _sections(source, source.read(text), "domain", repeated=":action")
    for word in sections.pop(":requirements", [])[1:]:
        if word not in _REQUIREMENTS:
            raise source.error(word, f"{shown(word)} is not supported, only {', '.join(_REQUIREMENTS)}")
    parents = _types(source, sections.pop(":types", Form()))
    constants = source.names(sections.pop(":constants", Form())[1:], parents)
    predicates: dict[str, tuple[str, ...]] = {}
    for form in sections.pop(":predicates", Form())[1:]:
        form = source.form(form, "a predicate")
        predicate = source.name(form[0], "a predicate's name")
        if predicate in predicates:
            raise source.error(form, f"predicate {predicate} is declared twice")
        predicates[predicate] = tuple(source.variables(form[1:], parents).values())
    sections.pop(":functions", None)
    for unread in sections.values():
        raise source.error(unread, f"({unread[0]} ...) is not supported")
    domain = Domain(name, parents, constants, predicates, (), text)
    schemas: dict[str, Schema] = {}
    for form in actions:
        schema = _schema(source, form, domain)
        if schema.name in schemas:
            raise source.error(form, f"action {schema.name} is declared twice")
        schemas[schema.name] = schema
    if not schemas:
        raise source.error(1, "there is no (:action ...)")
    return Domain(name, parents, constants, predicates, tuple(schemas.values()), text)


def _sections(source: Source, form: Form, kind: str, repeated: str = "") -> tuple[str, dict[str, Form], list[Form]]:
    """Split (define (KIND NAME) ...) into its name, its sections by keyword, and those that may be repeated."""
    if source.head(form, "(define ...)") != "define" or len(form) < 2:
        raise source.error(form, f"(define ({kind} NAME) ...) is expected")
    named = source.form(form[1], f"({kind} NAME)")
    if named[0] != kind or len(named) != 2:
        raise source.error(named, f"({kind} NAME) is expected, not {shown(named)}")
    sections: dict[str, Form] = {}
    many: list[Form] = []
    for part in form[2:]:
        section = source.form(part, "a section such as (:init ...)")
        keyword = str(section[0])
        if keyword == repeated:
            many.append(section)
        elif keyword in sections:
            raise source.error(section, f"a second ({keyword} ...)")
        else:
            sections[keyword] = section
    return source.name(named[1], "a name"), sections, many


def _types(source: Source, form: Form) -> dict[str, str]:
    parents = source.names(form[1:], None)
    parents.pop(OBJECT, None)
    for parent in list(parents.values()):
        parents.setdefault(parent, OBJECT)  # a type that is only used as a parent is one too
    parents.pop(OBJECT, None)
    for type in parents:
        seen = {type}
        while (type := parents.get(type, OBJECT)) != OBJECT:
            if type in seen:
                raise source.error(form, f"type {type} descends from itself")
            seen.add(type)
    return parents


def _schema(source: Source, form: Form, domain: Domain) -> Schema:
    if len(form) < 2:
        raise source.error(form, "an action needs a name")
    name = source.name(form[1], "an action's name")
    parts: dict[str, Form] = {}
    rest = iter(form[2:])
    for keyword in rest:
        if keyword not in (":parameters", ":precondition", ":effect") or keyword in parts:
            raise source.error(keyword, f"action {name}: {shown(keyword)} is not supported, or appears twice")
        part = next(rest, None)
        if not isinstance(part, Form):
            raise source.error(keyword, f"action {name}: {keyword} is not followed by a list in parentheses")
        parts[str(keyword)] = part
    if ":effect" not in parts:
        raise source.error(form, f"action {name} has no :effect")
    parameters = source.variables(parts.get(":parameters", Form()), domain.parents)
    terms = {**domain.constants, **parameters}
    needs = _literals(source, parts.get(":precondition", Form()), domain, terms, equality=True)
    effects = list(_literals(source, parts[":effect"], domain, terms, costs=True))
    return Schema(
        name,
        tuple(parameters.items()),
        tuple(needs),
        tuple(effect.atom for effect in effects if effect.holds),
        tuple(effect.atom for effect in effects if not effect.holds),
    )


def _literals(
    source: Source,
    form: Form,
    domain: Domain,
    terms: Mapping[str, str],
    *,
    equality: bool = False,
    costs: bool = False,
) -> Iterator[Literal]:
    """Yield the literals of `(and ...)`, of a single one, or of `()`."""
    if not form:
        return
    head = source.head(form, "a condition")
    if head == "and":
        for part in form[1:]:
            part = source.form(part, "a condition")
            yield from _literals(source, part, domain, terms, equality=equality, costs=costs)
    elif head == "not":
        if len(form) != 2 or source.head(form[1], "a condition") in ("and", "not"):
            raise source.error(form, f"(not ...) takes one atom, not {shown(form)}")
        yield Literal(_atom(source, form[1], domain, terms, equality), False)
    elif not (costs and head == "increase"):
        yield Literal(_atom(source, form, domain, terms, equality))


_BEYOND = ("or", "imply", "forall", "exists", "when", "increase", "decrease", "assign", "preference")


def _atom(source: Source, form: Word | Form, domain: Domain, terms: Mapping[str, str], equality: bool) -> Atom:
    head = source.head(form, "an atom")
    if head in _BEYOND or (head == EQUAL and not equality):
        raise source.error(form, f"({head} ...) is not supported: conditions and effects are atoms, and, not")
    types = (OBJECT, OBJECT) if head == EQUAL else domain.predicates.get(head)
    if types is None:
        known = ", ".join(domain.predicates) or "none"
        raise source.error(form, f"no predicate {shown(head)} in :predicates; there are {known}")
    if len(form) - 1 != len(types):
        raise source.error(form, f"{head} takes {len(types)} terms, and {shown(form)} gives {len(form) - 1}")
    for term, type in zip(form[1:], types, strict=True):
        if not isinstance(term, Word) or term not in terms:
            what = "parameter" if str(term).startswith("?") else "object"
            raise source.error(form, f"no {what} {shown(term)} here; there are {', '.join(terms) or 'none'}")
        # A parameter of a wider type than the predicate's may still stand for an object of it.
        if not (domain.is_a(terms[term], type) or (term[0] == "?" and domain.is_a(type, terms[term]))):
            raise source.error(form, f"{head} takes a {type}, and {term} is a {terms[term]}")
    return tuple(map(str, form))


# --- a problem --------------------------------------------------------------------------------------------------------


def read_task(text: str, domain: Domain, *, file: str = "the problem") -> Task:
    """Parse the problem in a PDDL text, which must be of this domain."""
    source = Source(file)
    form = source.read(text)
    name, sections, _ = _sections(source, form, "problem")
    named = sections.pop(":domain", Form())
    if len(named) != 2 or named[1] != domain.name:
        at = named if named else form
        raise source.error(at, f"(:domain {domain.name}) is expected, not {shown(named)}")
    sections.pop(":requirements", None)
    objects = source.names(sections.pop(":objects", Form())[1:], domain.parents)
    if twice := sorted(set(objects) & set(domain.constants)):
        raise source.error(form, f"object {twice[0]} is one of the domain's :constants too")
    objects = {**domain.constants, **objects}
    for needed in (":init", ":goal"):
        if needed not in sections:
            raise source.error(form, f"the problem has no ({needed} ...)")
    init, goal = sections.pop(":init"), sections.pop(":goal")
    sections.pop(":metric", None)
    for unread in sections.values():
        raise source.error(unread, f"({unread[0]} ...) is not supported")
    if len(goal) != 2:
        raise source.error(goal, "(:goal ...) takes one condition")
    wanted = Form() if goal[1] == Form() else source.form(goal[1], "a condition")
    start = _start(source, init, domain, objects)
    return Task(domain, name, objects, start, tuple(_literals(source, wanted, domain, objects)), text)


def _start(source: Source, init: Form, domain: Domain, objects: Mapping[str, str]) -> frozenset[Atom]:
    """Parse the facts that hold at the start: what is not listed does not hold, and may be listed as `(not ...)`."""
    facts: dict[bool, set[Atom]] = {True: set(), False: set()}
    for fact in init[1:]:
        form = source.form(fact, "an atom")
        head = form[0]
        if head == "and":
            raise source.error(form, "(:init ...) is a list of atoms, without (and ...)")
        if head == EQUAL and len(form) == 3 and isinstance(form[1], Form):
            continue  # the initial value of a function, such as a cost
        for literal in _literals(source, form, domain, objects):
            if literal.atom in facts[not literal.holds]:
                raise source.error(form, f"({' '.join(literal.atom)}) both holds at the start and does not")
            facts[literal.holds].add(literal.atom)
    return frozenset(facts[True])


def write_task(
    domain: Domain, name: str, objects: Mapping[str, str], start: Iterable[Atom], goal: Iterable[Literal]
) -> str:
    """Write a problem as PDDL text that `read_task` reads."""
    listed = [
        f"{obj} - {type}" if domain.parents else obj for obj, type in objects.items() if obj not in domain.constants
    ]
    facts = [f"({' '.join(fact)})" for fact in sorted(start)]
    wanted = [f"({' '.join(lit.atom)})" if lit.holds else f"(not ({' '.join(lit.atom)}))" for lit in goal]
    return (
        f"(define (problem {name}) (:domain {domain.name})\n"
        f"  (:objects {' '.join(listed)})\n  (:init {' '.join(facts)})\n  (:goal (and {' '.join(wanted)})))\n"
    )
