// The kernels of warps.cu, for the table in kernels.cc.
#include "compress/cuda/warps.cu"
