"""Reads a package's source without importing it, and lists what breaks the rules of the house.

1. Rooms. A module belongs to the room it lies in (`lesion/runs/store.py` to `runs`); the rooms
   stand on floors, and a module imports from its own room and those below. Nothing imports from the
   package's root, which stands above all. Every import counts: deferred into a function, for type
   checking only, relative, or by `importlib.import_module("a.literal")`.
2. Cycles. No module reaches itself through the imports of its own room.
3. Words. No pickle, no `torch.load`, no `trust_remote_code`, no `print`, no broad `except`.
"""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

PICKLING = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLING_CALLS = {"read_pickle", "to_pickle"}
BROAD = {"Exception", "BaseException"}


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a module of the package by another; the root is the package's own name."""

    importer: str
    imported: str
    place: str


def source_files(package: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    files = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imports(package: Path) -> list[Import]:
    """Every import within a package."""
    files = source_files(package)
    found = []
    for importer, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for asked in _asked(node, importer, path.name == "__init__.py"):
                imported = _module(asked, files)
                if imported is not None and imported != importer:
                    place = f"{path.relative_to(package.parent)}:{node.lineno}"
                    found.append(Import(importer, imported, place))
    return found


def _asked(node: ast.AST, importer: str, is_package: bool) -> Iterator[str]:
    """The dotted names that a node imports, absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = importer.split(".") if node.level else []
        kept = len(parts) - node.level + is_package
        base = [*parts[:kept], *([node.module] if node.module else [])]
        yield from (".".join([*base, alias.name]) for alias in node.names)
    elif isinstance(node, ast.Call) and _last_name(node.func) in ("import_module", "__import__"):
        yield from (
            argument.value
            for argument in node.args[:1]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        )


def _module(asked: str, files: dict[str, Path]) -> str | None:
    """The module of the package that a dotted name lies in; None for other packages."""
    parts = asked.split(".")
    names = (".".join(parts[:kept]) for kept in range(len(parts), 0, -1))
    return next((name for name in names if name in files), None)


def _last_name(node: ast.AST) -> str:
    return ast.unparse(node).rpartition(".")[2]


def _room(module: str) -> str:
    return module.split(".")[1]


def misplaced(package: Path, rooms: Sequence[str]) -> list[str]:
    """Modules outside the rooms, and imports that point upwards."""
    root = package.name
    floors = {room: floor for floor, room in enumerate(rooms)}
    inside = [module for module in source_files(package) if module != root]
    offences = [
        f"{module}: the room {_room(module)} has no floor"
        for module in inside
        if _room(module) not in floors
    ]
    for one in imports(package):
        if one.importer == root or _room(one.importer) not in floors:
            continue
        if one.imported == root:
            offences.append(f"{one.place}: {one.importer} imports from the root")
        elif floors.get(_room(one.imported), -1) > floors[_room(one.importer)]:
            offences.append(
                f"{one.place}: {one.importer} imports {one.imported}, which is above it"
            )
    return sorted(set(offences))


def cycles(package: Path) -> list[tuple[str, ...]]:
    """The modules of each room that reach one another, as groups."""
    below: dict[str, set[str]] = {module: set() for module in source_files(package)}
    for one in imports(package):
        inside = package.name not in (one.importer, one.imported)
        if inside and _room(one.importer) == _room(one.imported):
            below[one.importer].add(one.imported)
    reached = {module: _reached(module, below) for module in below}
    return sorted(
        {
            tuple(sorted(other for other in reached[module] if module in reached[other]))
            for module in below
            if module in reached[module]
        }
    )


def _reached(module: str, below: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = [*below[module]]
    while ahead:
        reached = ahead.pop()
        if reached not in found:
            found.add(reached)
            ahead.extend(below[reached])
    return found


def unwanted_words(package: Path) -> list[str]:
    """Every unwanted import, call and handler in a package."""
    return sorted(
        f"{path.relative_to(package.parent)}:{line}: {words}"
        for path in source_files(package).values()
        for line, words in unwanted_in(path.read_text(encoding="utf-8"))
    )


def unwanted_in(source: str) -> list[tuple[int, str]]:
    """The unwanted words of one module, by line."""
    nodes = ast.walk(ast.parse(source))
    return [(node.lineno, words) for node in nodes for words in _unwanted(node)]


def _unwanted(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _unwanted_imports(node)
    elif isinstance(node, ast.Call):
        yield from _unwanted_calls(node)
    elif isinstance(node, ast.ExceptHandler):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(kind is None or _last_name(kind) in BROAD for kind in kinds):
            yield "broad except"
    elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
        yield "torch.load"
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                yield from _unless_false("trust_remote_code", value)


def _unwanted_imports(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    yield from ("pickle" for module in modules if module.split(".")[0] in PICKLING)
    if isinstance(node, ast.ImportFrom) and node.module == "torch":
        yield from ("torch.load" for alias in node.names if alias.name == "load")


def _unwanted_calls(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id == "print":
        yield "print"
    if _last_name(node.func) in PICKLING_CALLS:
        yield "pickle"
    if _last_name(node.func) == "suppress" and any(_last_name(arg) in BROAD for arg in node.args):
        yield "broad except"
    for keyword in node.keywords:
        if keyword.arg in ("trust_remote_code", "allow_pickle"):
            yield from _unless_false(keyword.arg, keyword.value)


def _unless_false(word: str, value: ast.AST) -> Iterator[str]:
    if not (isinstance(value, ast.Constant) and value.value is False):
        yield word
