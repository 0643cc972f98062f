/* slimccl-info's flags: one table feeds the parser, --help and the man page. */
#ifndef SLIM_INFO_FLAGS_H_
#define SLIM_INFO_FLAGS_H_

/* X(letter, name, argument or NULL, help) */
#define SLIM_INFO_FLAGS(X)                                                                                            \
  X('c', "check", "SPEC", "explain a compressor (docs/specs.md) instead: its class, its size, its memory, its plan")  \
  X('n', "count", "N", "with --check: elements of the allreduce, e.g. 25M (K, M, G: powers of 1024; default 1M)")     \
  X('r', "ranks", "R", "with --check: ranks, 1 to 65536 (default 8)")                                                 \
  X('g', "domain", "N", "with --check: ranks of an NVLink domain, for the plan on NCCL (default 1; SLIM_DOMAIN)")     \
  X('t', "type", "TYPE", "with --check: fp16, bf16, fp32 or fp64 (default fp32)")                                     \
  X('d', "make-dropin", "DIR", "write DIR/libnccl.so.2, which puts libslimccl_nccl.so before NCCL (docs/preload.md)") \
  X('l', "nccl", "FILE", "with --make-dropin: that NCCL (default: SLIM_NCCL_LIB's, or what the system finds)")        \
  X('h', "help", NULL, "show this")                                                                                   \
  X('v', "version", NULL, "show SlimCCL's version")

#endif
