"""CUDA kernels as data: a .cu file becomes a fat binary, which a program embeds and loads by name."""

load("@cuda//:defs.bzl", "NVCC")

# No contraction, denormals kept, correctly rounded division and square root: the same bits as on a CPU. A kernel that
# spills registers, or keeps anything else in local memory, is an error.
_FLAGS = "-O3 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true"
_CHECKED = "-Xptxas -v,-warn-spills,-warn-lmem-usage,-Werror"

def _run(ctx, inputs, outputs, command):
    ctx.actions.run_shell(
        inputs = inputs,
        outputs = outputs,
        # nvcc names its temporary files after its process, whose number is the same in every sandbox, while /tmp is one.
        command = "export TMPDIR=$(mktemp -d) && trap 'rm -rf \"$TMPDIR\"' EXIT && " + command,
        mnemonic = "CudaFatbin",
        progress_message = "Compiling %s for CUDA" % ctx.file.src.short_path,
        env = {"PATH": NVCC[:-len("/nvcc")] + ":/usr/bin:/bin"},
    )

def _cuda_fatbin_impl(ctx):
    src = ctx.file.src
    inputs = [src] + ctx.files.hdrs
    name = ctx.label.name
    cubins, reports, images = [], [], []
    for arch in ctx.attr.archs:
        cubin = ctx.actions.declare_file("%s.sm_%s.cubin" % (name, arch))
        report = ctx.actions.declare_file("%s.sm_%s.ptxas.txt" % (name, arch))
        _run(ctx, inputs, [cubin, report], "nvcc -cubin -arch=sm_%s %s %s -I. %s -o %s 2> %s || { cat %s; exit 1; }" % (
            arch,
            _FLAGS,
            _CHECKED,
            src.path,
            cubin.path,
            report.path,
            report.path,
        ))
        cubins.append(cubin)
        reports.append(report)
        images.append("--image3=kind=elf,sm=%s,file=%s" % (arch, cubin.path))

    # For devices that come later, the driver compiles this.
    ptx = ctx.actions.declare_file(name + ".ptx")
    _run(ctx, inputs, [ptx], "nvcc -ptx -arch=compute_%s %s -I. %s -o %s" % (
        ctx.attr.archs[0],
        _FLAGS,
        src.path,
        ptx.path,
    ))
    images.append("--image3=kind=ptx,sm=%s,file=%s" % (ctx.attr.archs[0], ptx.path))

    fatbin = ctx.actions.declare_file(name + ".fatbin")
    _run(ctx, cubins + [ptx], [fatbin], "fatbinary -64 --create=%s --compress-mode=size %s" % (
        fatbin.path,
        " ".join(images),
    ))
    # The hash makes the assembly another one whenever the image is: an assembler's dependencies do not list .incbin's.
    embed = ctx.actions.declare_file(name + ".S")
    _run(ctx, [fatbin], [embed], """
{{
  sha256sum {path} | sed 's|^|// |'
  printf '%s\\n' '.section .rodata' '.global {symbol}' '.hidden {symbol}' '.balign 64' '{symbol}:' '.incbin "{path}"' \\
    '.section .note.GNU-stack,"",@progbits'
}} > {out}""".format(symbol = ctx.attr.symbol, path = fatbin.path, out = embed.path))
    return [
        DefaultInfo(files = depset([embed])),
        OutputGroupInfo(
            fatbin = depset([fatbin]),
            cubins = depset(cubins),
            ptx = depset([ptx]),
            report = depset(reports),
        ),
    ]

# srcs of a cc_library that has the output group `fatbin` among its textual_hdrs. Other output groups: cubins, ptx,
# report (ptxas' words on registers and memory, one file an architecture).
cuda_fatbin = rule(
    implementation = _cuda_fatbin_impl,
    attrs = {
        "src": attr.label(allow_single_file = [".cu"], mandatory = True),
        "hdrs": attr.label_list(allow_files = True, doc = "What it includes"),
        "symbol": attr.string(mandatory = True, doc = "The image's name in C: extern const char NAME[]"),
        "archs": attr.string_list(default = ["80", "90", "100"]),
    },
)
