/* What the sanitizers are to overlook inside MPI's own libraries, which are not built with them. Linked into each
 * program that uses MPI; without a sanitizer nothing calls these functions. */

const char* __lsan_default_suppressions(void);
const char* __tsan_default_suppressions(void);

const char* __lsan_default_suppressions(void) {
  return "leak:libmpi\nleak:libopen-pal\nleak:libopen-rte\nleak:libpmix\nleak:libhwloc\nleak:libevent\nleak:mca_\n"
         "leak:vasprintf\n";
}

const char* __tsan_default_suppressions(void) {
  /* UCX is what MPICH uses. Open MPI unloads its plugins, which called_from_lib does not suffer. */
  return "called_from_lib:libmpi.so\ncalled_from_lib:libmpich.so\ncalled_from_lib:libopen-pal.so\n"
         "called_from_lib:libopen-rte.so\ncalled_from_lib:libucp.so\ncalled_from_lib:libuct.so\n"
         "called_from_lib:libuct_cma.so\nrace:libuc\nmutex:libuc\ndeadlock:libuc\n"
         "race:mca_\nmutex:mca_\ndeadlock:mca_\n";
}

#if defined(__SANITIZE_ADDRESS__)
/* Open MPI unloads its plugins before the leak check, which can then no longer name them: keep them. */
int dlclose(void* handle);

int dlclose(void* handle) {
  (void)handle;
  return 0;
}
#endif
