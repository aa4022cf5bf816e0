"""Signatures of `_target_` classes and functions, read from their source files: the schema of a configuration node.

Nothing is imported, so that a wrong configuration is refused before torch is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from etude.config.annotations import (
    Annotation,
    Anything,
    Choice,
    DictOf,
    Either,
    ListOf,
    Maker,
    Object,
    Scalar,
    TupleOf,
)
from etude.config.modules import Definition, Module, expression, resolve

LISTS = frozenset({"list", "List", "Sequence", "MutableSequence", "Iterable", "Collection", "set", "frozenset"})
DICTS = frozenset({"dict", "Dict", "Mapping", "MutableMapping"})
TUPLES = frozenset({"tuple", "Tuple"})
PLAIN = {name: Scalar(name) for name in ("int", "float", "bool", "str", "Path")}
DEFAULTS = frozenset({"default", "default_factory"})
PRETRAINED = "etude.models.pretrained.base.PretrainedModel"
WRAPPERS = frozenset({"Final", "Annotated", "Required", "NotRequired"})


@dataclass(frozen=True)
class Parameter:
    """An argument of a constructor.

    Attributes:
        annotation: Annotation, which says what it accepts.
        required: Whether it has no default.
    """

    annotation: Annotation
    required: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a class or function.

    Attributes:
        name: Name of the class or function, without the module.
        parameters: Arguments by name, in order.
        open: Whether it takes other names too (`**kwargs`).
    """

    name: str
    parameters: Mapping[str, Parameter]
    open: bool = False


@cache
def signature(target: str) -> Signature | None:
    """Return the signature of a class or function by its dotted name; None if it does not exist."""
    definition = resolve(target)
    return signature_of(definition) if definition else None


def signature_of(definition: Definition) -> Signature:
    """Return the signature of a class or function; for a class, that of its own, inherited or generated constructor."""
    if isinstance(definition.node, ast.ClassDef):
        parameters, is_open = _constructor(definition)
    else:
        owned = "." in definition.name and not has_decorator(definition.node, "staticmethod")
        parameters, is_open = _arguments(definition.module, definition.node, skip_first=owned)
    return Signature(definition.name, parameters, is_open)


def ancestry(definition: Definition) -> Iterator[Definition]:
    """Yield a class and its ancestors, nearest first, as far as their sources are available."""
    yield definition
    for base in definition.node.bases if isinstance(definition.node, ast.ClassDef) else ():
        base = base.value if isinstance(base, ast.Subscript) else base
        parent = expression(definition.module, base)
        if isinstance(parent, Definition):
            yield from ancestry(parent)


def constant(target: str, name: str) -> Any:
    """Return the literal value of a class attribute, own or inherited; None if it has none."""
    definition = resolve(target)
    for owner in ancestry(definition) if definition else ():
        for node in owner.node.body if isinstance(owner.node, ast.ClassDef) else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if value is not None and name in {target.id for target in targets if isinstance(target, ast.Name)}:
                return ast.literal_eval(value)
    return None


def _constructor(definition: Definition) -> tuple[dict[str, Parameter], bool]:
    """Return the parameters of a class as Python finds them: by the nearest `__init__`, `__new__` or dataclass."""
    for owner in ancestry(definition):
        if not isinstance(owner.node, ast.ClassDef):
            continue
        methods = {node.name: node for node in owner.node.body if isinstance(node, ast.FunctionDef)}
        method = methods.get("__init__") or methods.get("__new__")
        if method is not None:
            parameters, is_open = _arguments(owner.module, method, skip_first=True)
            if is_open and _passes_on_keywords(method):
                return _extended(owner, parameters)
            return parameters, is_open
        if has_decorator(owner.node, "dataclass"):
            return _fields(owner), False
    return {}, False


def _passes_on_keywords(method: ast.FunctionDef) -> bool:
    """Return whether a constructor passes its `**kwargs` to its parent's, whose parameters are then its own."""
    return any(
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "super().__init__"
        and any(keyword.arg is None for keyword in node.keywords)
        for node in ast.walk(method)
    )


def _extended(owner: Definition, parameters: dict[str, Parameter]) -> tuple[dict[str, Parameter], bool]:
    for parent in list(ancestry(owner))[1:]:
        inherited, is_open = _constructor(parent)
        return {**inherited, **parameters}, is_open
    return parameters, True


def has_decorator(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.expr, name: str) -> bool:
    """Return whether a class or function has a decorator of that name, such as `dataclass`, called or not."""
    calls = getattr(node, "decorator_list", [])
    named = [ast.unparse(call.func if isinstance(call, ast.Call) else call) for call in calls]
    return any(text.rpartition(".")[2] == name for text in named)


def _arguments(
    module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.expr, skip_first: bool
) -> tuple[dict[str, Parameter], bool]:
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)  # noqa: S101 (the only callee left)
    listed = node.args
    positional = [*listed.posonlyargs, *listed.args]
    with_default = {argument.arg for argument in positional[len(positional) - len(listed.defaults) :]}
    pairs = zip(listed.kwonlyargs, listed.kw_defaults, strict=True)
    with_default |= {argument.arg for argument, default in pairs if default is not None}
    parameters = {
        argument.arg: Parameter(interpret(module, argument.annotation), argument.arg not in with_default)
        for argument in [*positional[skip_first:], *listed.kwonlyargs]
    }
    return parameters, listed.kwarg is not None


def _fields(definition: Definition) -> dict[str, Parameter]:
    """Return the parameters that `@dataclass` generates: inherited fields, then the class's own."""
    parameters: dict[str, Parameter] = {}
    for owner in reversed([owner for owner in ancestry(definition) if has_decorator(owner.node, "dataclass")]):
        for node in owner.node.body if isinstance(owner.node, ast.ClassDef) else ():
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            options = _field_options(node.value)
            class_variable = ast.unparse(node.annotation).startswith(("ClassVar", "typing.ClassVar"))
            if class_variable or options.get("init") == "False":
                continue
            has_default = node.value is not None and (not options or not options.keys().isdisjoint(DEFAULTS))
            parameters[node.target.id] = Parameter(interpret(owner.module, node.annotation), not has_default)
    return parameters


def _field_options(value: ast.expr | None) -> dict[str, str]:
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
        return {keyword.arg or "": ast.unparse(keyword.value) for keyword in value.keywords}
    return {}


def interpret(module: Module, node: ast.expr | None, depth: int = 0) -> Annotation:
    """Interpret the source of an annotation; one that is not understood accepts anything."""
    match node:
        case None:
            return Anything()
        case ast.Constant(value=None):
            return Scalar("null")
        case ast.Constant(value=str(text)):
            return interpret(module, ast.parse(text.strip(), mode="eval").body, depth)
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return Either((interpret(module, left, depth), interpret(module, right, depth)))
        case ast.Subscript(value=value, slice=inner):
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return _subscript(module, ast.unparse(value).rpartition(".")[2], value, items, depth)
        case ast.Name() | ast.Attribute():
            return _named(module, node, depth)
    return Anything()


def _subscript(module: Module, name: str, value: ast.expr, items: list[ast.expr], depth: int) -> Annotation:
    if name == "Literal":
        return Choice(tuple(ast.literal_eval(item) for item in items))
    if name == "Callable":
        return _maker(module, items[-1])
    if name in {"type", "Type"}:
        return Object("callable", lambda target: True)
    inner = tuple(interpret(module, item, depth) for item in items if not _is_ellipsis(item))
    if name == "Optional":
        return Either((*inner, Scalar("null")))
    if name == "Union":
        return Either(inner)
    if name in WRAPPERS:
        return inner[0]
    if name in LISTS or (name in TUPLES and _is_ellipsis(items[-1])):
        return ListOf(inner[0])
    if name in TUPLES:
        return TupleOf(inner)
    if name in DICTS:
        return DictOf(*inner)
    return interpret(module, value, depth)


def _maker(module: Module, node: ast.expr) -> Annotation:
    """Interpret `Callable[…, X]`: where X is a class, whatever makes objects of it."""
    meaning = expression(module, node)
    if isinstance(meaning, Definition) and isinstance(meaning.node, ast.ClassDef):
        return Maker(meaning.name, lambda target: makes(target, meaning))
    return Object("callable", lambda target: True)


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _named(module: Module, node: ast.Name | ast.Attribute, depth: int) -> Annotation:
    name = ast.unparse(node).rpartition(".")[2]
    meaning = expression(module, node)
    if isinstance(meaning, Definition) and meaning.dotted == "etude.duration.Duration":
        return Scalar("duration")
    if name in PLAIN:
        return PLAIN[name]
    if name in LISTS | TUPLES:
        return ListOf(Anything())
    if name in DICTS:
        return DictOf(Anything(), Anything())
    if name == "Callable":
        return Object("callable", lambda target: True)
    if not isinstance(meaning, Definition) or name in {"Any", "object"}:
        return Anything()
    if isinstance(meaning.node, ast.ClassDef):
        return Object(name, lambda target: makes(target, meaning))
    if isinstance(meaning.node, ast.expr) and depth < 5:
        return interpret(meaning.module, meaning.node, depth + 1)
    return Anything()


def makes(target: str, wanted: Definition) -> bool:
    """Return whether a `_target_` may give an object of a class; only a plain class of its own kin can be denied.

    A protocol is met by shape, which sources do not tell, and a function may return a subclass: both are allowed. A
    pretrained model gives what its `build` returns.
    """
    made = resolve(target)
    if made is None or is_protocol(wanted):
        return True
    kin = [owner.dotted for owner in ancestry(made)]
    if PRETRAINED in kin and wanted.dotted not in kin:
        made = next(filter(None, (resolve(f"{owner}.build") for owner in kin)))
    if not isinstance(made.node, ast.FunctionDef):
        return wanted.dotted in kin
    returned = expression(made.module, made.node.returns) if made.node.returns else None
    if not isinstance(returned, Definition) or not isinstance(returned.node, ast.ClassDef):
        return True
    narrower = returned.dotted in {owner.dotted for owner in ancestry(wanted)}
    return narrower or wanted.dotted in {owner.dotted for owner in ancestry(returned)}


def is_protocol(definition: Definition) -> bool:
    """Return whether a class is a protocol itself, not one that implements a protocol."""
    bases = definition.node.bases if isinstance(definition.node, ast.ClassDef) else []
    return any(ast.unparse(base).partition("[")[0].rpartition(".")[2] == "Protocol" for base in bases)
