"""Takes along what `bazelw build -c opt //plugin:libslimccl.so //plugin:libslimccl_mpi_transport.so` has built."""
import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent


class BuildWithLibrary(build_py):
    def run(self):
        super().run()
        for name in "libslimccl.so", "libslimccl_mpi_transport.so":
            built = HERE.parent.parent / "bazel-bin" / "plugin" / name
            if built.exists() and not self.editable_mode:
                target = pathlib.Path(self.build_lib) / "slimccl" / name
                target.unlink(missing_ok=True)
                shutil.copyfile(built, target)


setup(cmdclass={"build_py": BuildWithLibrary})
