"""The rules of the house hold in `src`, and the checker that says so can find every offence."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from house_rules import cycles, imports, misplaced, source_files, unwanted_in, unwanted_words

import lesion

PACKAGE = Path(lesion.__file__).parent
TESTS = Path(__file__).parent

ROOMS = (
    "errors",
    "axes",
    "prompts",
    "prompt_sets",
    "columns",
    "interventions",
    "figures",
    "runs",
    "models",
    "metrics",
    "engines",
    "experiments",
    "terminal",
    "cli",
    "__main__",
)
"""From the lowest floor to the highest."""


@pytest.fixture
def package(tmp_path):
    """Writes a package of some modules and gives its directory."""

    def write(modules: dict[str, str]) -> Path:
        for name, source in ({"__init__.py": ""} | modules).items():
            path = tmp_path / "house" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path / "house"

    return write


class TestThePackage:
    def test_imports_point_downwards(self):
        assert misplaced(PACKAGE, ROOMS) == []

    def test_no_room_imports_in_a_circle(self):
        assert cycles(PACKAGE) == []

    def test_nothing_pickles_trusts_prints_or_swallows(self):
        assert unwanted_words(PACKAGE) == []

    def test_the_checker_read_it(self):
        files = source_files(PACKAGE)
        assert {module.split(".")[1] for module in files if module != "lesion"} == set(ROOMS)
        edges = {(one.importer, one.imported) for one in imports(PACKAGE)}
        assert ("lesion.interventions.lesion", "lesion.errors") in edges
        assert ("lesion.runs.run", "lesion.figures") in edges, "deferred into a method"
        assert ("lesion", "lesion.models.loading") in edges, "for type checking only"
        assert ("lesion.runs.run", "lesion.runs.store") in edges, "a module out of a package"

    def test_the_public_names_are_listed_alike(self):
        """They stand there three times: for users, for the loader, for type checkers."""
        homes = {
            alias.asname or alias.name: f"{node.module}:{alias.name}"
            for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lesion.")
            for alias in node.names
        }
        assert homes == lesion._HOMES
        assert sorted(homes) == lesion.__all__

    def test_the_public_names_are_found(self):
        for name, home in lesion._HOMES.items():
            module, _, attribute = home.partition(":")
            assert getattr(lesion, name) is getattr(sys.modules[module], attribute)
            assert name in dir(lesion)
        with pytest.raises(AttributeError, match=r"^module 'lesion' has no attribute 'swep'$"):
            lesion.swep  # noqa: B018


class TestTheCheckerOfRooms:
    ROOMS = ("low", "middle", "high")

    def test_all_offences_are_found_at_once(self, package):
        house = package(
            {
                "__init__.py": "from house.high import open",
                "low.py": "import house.high\n",
                "middle/__init__.py": "from house import low\nfrom house.low import anything\n",
                "middle/one.py": (
                    "from typing import TYPE_CHECKING\n"
                    "if TYPE_CHECKING:\n"
                    "    from house.high import open, load\n"
                    "import house\n"
                    "from house import open\n"
                ),
                "middle/two.py": (
                    "def late():\n"
                    "    from house import high\n"
                    "    from .. import high\n"
                    "    from ..high import open\n"
                    "    from .one import anything\n"
                    "    importlib.import_module('house.high')\n"
                ),
                "middle/three.py": "import os.path, house.low\nfrom . import one\n",
                "high.py": "import house.low\nfrom house.middle.one import anything\n",
                "attic.py": "import house.high\n",
            }
        )
        above = "imports house.high, which is above it"
        assert misplaced(house, self.ROOMS) == [
            "house.attic: the room attic has no floor",
            f"house/low.py:1: house.low {above}",
            f"house/middle/one.py:3: house.middle.one {above}",
            "house/middle/one.py:4: house.middle.one imports from the root",
            "house/middle/one.py:5: house.middle.one imports from the root",
            f"house/middle/two.py:2: house.middle.two {above}",
            f"house/middle/two.py:3: house.middle.two {above}",
            f"house/middle/two.py:4: house.middle.two {above}",
            f"house/middle/two.py:6: house.middle.two {above}",
        ]

    def test_a_house_in_order_passes(self, package):
        house = package(
            {
                "__init__.py": "import house.high",
                "low.py": "import sys\n",
                "middle/__init__.py": "from house.middle.one import anything\n",
                "middle/one.py": "from house.low import anything\n",
                "middle/two.py": "from .one import anything\nfrom housekeeping import high\n",
                "high.py": "def late():\n    from house.middle import two\n",
            }
        )
        assert misplaced(house, self.ROOMS) == []
        assert cycles(house) == []

    def test_every_circle_of_a_room_is_found(self, package):
        house = package(
            {
                "low.py": "",
                "middle/__init__.py": "from house.middle.five import anything\n",
                "middle/one.py": "from house.middle import two\n",
                "middle/two.py": "def late():\n    import house.middle.three\n",
                "middle/three.py": "from .one import anything\nfrom house import low\n",
                "middle/four.py": "from house.middle.one import anything\n",
                "middle/five.py": "from house.middle import anything\n",
            }
        )
        assert cycles(house) == [
            ("house.middle", "house.middle.five"),
            ("house.middle.one", "house.middle.three", "house.middle.two"),
        ]


class TestTheCheckerOfWords:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("import pickle", "pickle"),
            ("import os, pickle as p", "pickle"),
            ("from pickle import loads", "pickle"),
            ("import joblib.memory", "pickle"),
            ("def late():\n    import dill", "pickle"),
            ("pd.read_pickle(path)", "pickle"),
            ("frame.to_pickle(path)", "pickle"),
            ("np.load(path, allow_pickle=True)", "allow_pickle"),
            ("torch.load(path)", "torch.load"),
            ("read = torch.load", "torch.load"),
            ("from torch import nn, load", "torch.load"),
            ("load(name, trust_remote_code=True)", "trust_remote_code"),
            ("load(name, trust_remote_code=trusted)", "trust_remote_code"),
            ("options = {'trust_remote_code': True}", "trust_remote_code"),
            ("print('done')", "print"),
            ("try:\n    f()\nexcept:\n    pass", "broad except"),
            ("try:\n    f()\nexcept Exception:\n    pass", "broad except"),
            (
                "try:\n    f()\nexcept (OSError, builtins.BaseException) as e:\n    pass",
                "broad except",
            ),
            ("with suppress(OSError, Exception):\n    f()", "broad except"),
        ],
    )
    def test_what_it_finds(self, source, words):
        assert [found for _, found in unwanted_in(source)] == [words]

    def test_what_it_leaves_alone(self):
        source = """
import pickleball
from safetensors.torch import load
load(name, trust_remote_code=False)
np.load(path, allow_pickle=False)
console.print("done")
"import pickle; print(); trust_remote_code=True"  # torch.load
options = {"trust_remote_code": False}
try:
    f()
except (OSError, ValueError):
    raise Exception("no")
"""
        assert unwanted_in(source) == []

    def test_it_names_file_and_line_of_all(self, package):
        house = package({"low.py": "\nprint(1)\nimport pickle\n", "high/one.py": "print(2)\n"})
        assert unwanted_words(house) == [
            "house/high/one.py:1: print",
            "house/low.py:2: print",
            "house/low.py:3: pickle",
        ]


WITHOUT_TORCH = """
import json, sys, tempfile
from pathlib import Path

import lesion
import lesion.errors, lesion.columns, lesion.prompts, lesion.axes, lesion.cli, lesion.terminal
import lesion.interventions.lesion, lesion.interventions.select, lesion.figures, lesion.runs.run
from small_run import small_run

lesion.Lesion(lesion.top(.01), layers=(3,))
run = small_run()
with tempfile.TemporaryDirectory() as folder:
    for figures in (False, True):
        path = run.save(Path(folder) / f"figures {figures}", figures=figures)
        opened = lesion.open(path)
        assert opened.table.equals(run.table)
        assert len(opened.frame()) == 9
        for kind in opened.chart_kinds():
            assert opened.chart(kind).to_dict()
        assert opened.query("select count(*) from rows").iloc[0, 0] == 9
        assert (path / "figures").is_dir() == figures
heavy = {"torch", "transformers", "tokenizers", "safetensors"}
json.dump(sorted(heavy & set(sys.modules)), sys.stdout)
"""


def in_a_child(script: str) -> list[str]:
    """Runs a script that can import this folder; gives what it writes as JSON."""
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(TESTS)]
    child = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def test_a_run_is_read_drawn_and_queried_without_torch():
    assert in_a_child(WITHOUT_TORCH) == []


def test_the_child_would_notice_torch():
    script = WITHOUT_TORCH.replace("import lesion\n", "import lesion, types\n", 1)
    script = script.replace(
        "heavy = ", "sys.modules['torch'] = types.ModuleType('torch')\nheavy = "
    )
    assert in_a_child(script.replace("(False, True)", "()")) == ["torch"]
