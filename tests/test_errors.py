"""The errors: the tree of the docstring, the four parts of the text, pickling, built-in bases."""

import ast
import builtins
import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

import lesion.errors
from lesion.errors import LesionError

CLASSES = [
    found
    for found in vars(lesion.errors).values()
    if inspect.isclass(found) and issubclass(found, LesionError)
]
OS_ERRORS = [found for found in CLASSES if issubclass(found, OSError)]
PARTS = ("save to runs/a", "a run stands there", "A run is written once", "Pass overwrite")


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Of every class in the docstring: the class it hangs from, and the built-in it names."""
    tree, above = {}, {}
    for line in inspect.getdoc(lesion.errors).splitlines():
        drawn = re.match(r"    (?P<branch>[│├└─ ]*)(?P<name>\w+)(?: \((?P<built_in>\w+)\))?", line)
        if drawn is None:
            continue
        depth = len(drawn["branch"]) // 4
        above[depth] = drawn["name"]
        tree[drawn["name"]] = (above.get(depth - 1), drawn["built_in"])
    return tree


def real_tree() -> dict[str, tuple[str | None, str | None]]:
    """The same of the classes themselves."""
    tree = {}
    for found in CLASSES:
        own = [base.__name__ for base in found.__bases__ if issubclass(base, LesionError)]
        built_in = [base.__name__ for base in found.__bases__ if hasattr(builtins, base.__name__)]
        assert len(own) <= 1
        assert len(built_in) <= 1
        assert len(own) + len(built_in) == len(found.__bases__)
        tree[found.__name__] = (own[0] if own else None, built_in[0] if built_in else None)
    # The root's own built-in is Exception, which goes without saying.
    assert tree["LesionError"] == (None, "Exception")
    return tree | {"LesionError": (None, None)}


def test_the_tree_of_the_docstring_is_the_real_one():
    assert drawn_tree() == real_tree()


def test_every_error_of_the_package_is_in_the_tree():
    package = Path(lesion.errors.__file__).parent
    known = {found.__name__ for found in CLASSES}
    elsewhere = [
        f"{path.relative_to(package)}:{node.lineno}: {node.name}"
        for path in package.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(
            re.search(r"(Error|Exception)$", name) or name in known for name in base_names(node)
        )
    ]
    assert elsewhere == []


def base_names(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).rpartition(".")[2] for base in node.bases]


@pytest.mark.parametrize("error", CLASSES)
def test_its_text_says_four_things_in_order(error):
    raised = error(*PARTS)
    assert str(raised) == (
        "save to runs/a: a run stands there. A run is written once. Pass overwrite."
    )
    assert (raised.asked, raised.found, raised.rule, raised.remedy) == PARTS


@pytest.mark.parametrize("error", CLASSES)
@pytest.mark.parametrize("missing", range(4))
def test_no_part_can_be_left_out(error, missing):
    with pytest.raises(TypeError):
        error(*PARTS[:missing])


def passed_on(error: LesionError) -> list[LesionError]:
    """The error as it arrives from another process, by every protocol, and as a copy."""
    pickled = [pickle.dumps(error, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    return [*map(pickle.loads, pickled), copy.copy(error), copy.deepcopy(error)]


@pytest.mark.parametrize(
    "error",
    CLASSES,
)
def test_it_survives_pickling(error):
    raised = error(*PARTS)
    for arrived in passed_on(raised):
        assert type(arrived) is error
        assert str(arrived) == str(raised)
        assert vars(arrived) == vars(raised)


@pytest.mark.parametrize("error", OS_ERRORS)
def test_the_parts_are_no_error_numbers_or_file_names(error):
    raised = error(*PARTS)
    assert raised.errno is None
    assert raised.filename is None


@pytest.mark.parametrize("error", CLASSES)
def test_it_is_caught_by_its_built_in_and_by_the_root(error):
    built_in = real_tree()[error.__name__][1]
    for base in (LesionError, getattr(builtins, built_in) if built_in else Exception):
        with pytest.raises(base):
            raise error(*PARTS)
