"""Takes libslimccl.so along, where `bazelw build -c opt //plugin:libslimccl.so` has built it."""
import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        built = HERE.parent.parent / "bazel-bin" / "plugin" / "libslimccl.so"
        if built.exists() and not self.editable_mode:
            target = pathlib.Path(self.build_lib) / "slimccl" / built.name
            target.unlink(missing_ok=True)
            shutil.copyfile(built, target)


setup(cmdclass={"build_py": BuildWithLibrary})
