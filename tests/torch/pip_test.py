"""`pip install ./plugin/torch`, without a network: pip_test.py FILES of a tree that Bazel has built."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

PROGRAM = """
import pathlib, sys
import slimccl, slimccl.core
folder = pathlib.Path(sys.argv[1]).resolve()
assert pathlib.Path(slimccl.__file__).resolve().parent == folder / "slimccl", slimccl.__file__
assert pathlib.Path(slimccl.core._library._name).resolve().parent == folder / "slimccl", slimccl.core._library
for library in sys.argv[2:]:
    assert (folder / "slimccl" / library).exists(), library
print(".".join(map(str, slimccl.version())))
"""


class PipTest(unittest.TestCase):
    files = []

    def test_installs_with_the_library(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            tree, target = folder / "tree", folder / "a target"
            libraries = [pathlib.Path(file).name for file in self.files if file.endswith(".so")]
            for file in self.files:
                # A library is where `bazelw build` puts it, in bazel-bin.
                place = tree / ("bazel-bin" if file.endswith(".so") else "") / file
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
            environment = {name: value for name, value in os.environ.items()
                           if name not in ("SLIMCCL_LIBRARY", "PYTHONPATH")}
            environment["HOME"] = str(folder)
            subprocess.run(["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
                            "--no-build-isolation", "--target", target, tree / "plugin" / "torch"],
                           env=environment, check=True)
            result = subprocess.run(["/usr/bin/python3", "-c", PROGRAM, target, *libraries], cwd=folder, check=True, text=True,
                                    stdout=subprocess.PIPE, env={**environment, "PYTHONPATH": str(target)})
            version = (tree / "plugin" / "torch" / "pyproject.toml").read_text()
            self.assertIn(f'version = "{result.stdout.strip()}"', version)


if __name__ == "__main__":
    PipTest.files = sys.argv[1:]
    del sys.argv[1:]
    unittest.main()
