/* A program linked with -ffast-math starts with denormals flushed: every entry sets the default floating-point
 * environment (round to nearest, denormals kept, nothing trapped) and gives the caller's back. */
#ifndef SLIM_COMPRESS_FPENV_H_
#define SLIM_COMPRESS_FPENV_H_

#if defined(__x86_64__)
#include <xmmintrin.h>
typedef unsigned slimFpState;
static inline slimFpState slimFpEnter(void) {
  slimFpState old = _mm_getcsr();
  if ((old & ~0x3fu) != 0x1f80) _mm_setcsr(0x1f80);
  return old;
}
static inline void slimFpLeave(slimFpState old) {
  if ((old & ~0x3fu) != 0x1f80) _mm_setcsr(old);
}
#else
#include <fenv.h>
typedef fenv_t slimFpState;
static inline slimFpState slimFpEnter(void) {
  slimFpState old;
  fegetenv(&old);
  fesetenv(FE_DFL_ENV);
  return old;
}
static inline void slimFpLeave(slimFpState old) { fesetenv(&old); }
#endif

#endif
