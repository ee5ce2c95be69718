"""The package as its users have it: in a child process, without the run-time checks of the tests.

Under test every annotation is checked, so that a word outside its `Literal` never reaches the
package's own refusal. Here it does.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

CHILD = """
import json, sys

imports, expressions = json.load(sys.stdin)
names = {}
exec(imports, names)

def outcome(expression):
    try:
        return repr(eval(expression, names))
    except Exception as error:
        return f"{type(error).__name__}: {error}"

json.dump([outcome(expression) for expression in expressions], sys.stdout)
"""


def outcomes(imports: str, expressions: Sequence[str]) -> dict[str, str]:
    """What each expression gives: the repr of its value, or the class and text of its error."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD],
        input=json.dumps([imports, list(expressions)]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(expressions, json.loads(child.stdout), strict=True))
