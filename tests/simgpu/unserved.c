/* What the runtime's header declares and runtime.cc does not define: programs that mention it load, and are told when
 * they call it. */
int simgpuUnserved(const char* function);

#define SIMGPU_FUNCTION(name) \
  __attribute__((weak, visibility("default"))) int name(void) { return simgpuUnserved(#name); }
#include "tests/simgpu/functions.inc"
