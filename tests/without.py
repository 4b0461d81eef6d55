"""Run a Python script as on a machine where some packages are not installed.

python tests/without.py pydantic,datasets script.py argument ...
"""

import runpy
import sys
from importlib.machinery import PathFinder


class Without:
    """The usual search of sys.path, in which some packages are not found."""

    def __init__(self, packages):
        self.packages = frozenset(packages)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            return None
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context):
        found = PathFinder.find_distributions(*context)
        return [one for one in found if one.name.replace("-", "_") not in self.packages]


def hide(packages):
    """From now on these packages cannot be imported, and `importlib.util.find_spec` finds none of them."""
    kept = [finder for finder in sys.meta_path if finder is not PathFinder and "editable" not in repr(finder)]
    sys.meta_path[:] = [*kept, Without(packages)]
    assert not set(packages) & {name.partition(".")[0] for name in sys.modules}


if __name__ == "__main__":
    hide(sys.argv[1].split(","))
    sys.argv[:] = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
