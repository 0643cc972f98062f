"""Finds PyTorch for Debian's python3.

@torch//:defs.bzl  requires_torch(), for the target_compatible_with of each target that needs it

SLIM_TORCH=0 in the environment makes it look as if there were none.
"""

def _torch_configure_impl(ctx):
    there = ctx.path("/usr/lib/python3/dist-packages/torch/__init__.py").exists
    if ctx.os.environ.get("SLIM_TORCH", "") == "0" or not there:
        print("no PyTorch found: the targets that need it are skipped")  # buildifier: disable=print
        there = False
    ctx.file("BUILD", "")
    ctx.file("defs.bzl", "def requires_torch():\n    return %s\n" % ([] if there else ["@platforms//:incompatible"]))

torch_configure = repository_rule(
    implementation = _torch_configure_impl,
    configure = True,
    environ = ["SLIM_TORCH"],
    local = True,
)
