/* libslimccl_audit.so: under LD_AUDIT, gives the shim's functions to whoever binds NCCL's, also by dlsym or with
 * RTLD_DEEPBIND. The loader keeps it in a namespace of its own, so the shim is loaded beside the program instead. */
#include <dlfcn.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define SLIM_EXPORT __attribute__((visibility("default")))

SLIM_EXPORT unsigned la_version(unsigned version) { return version < LAV_CURRENT ? version : LAV_CURRENT; }

SLIM_EXPORT unsigned la_objopen(struct link_map* map, Lmid_t space, uintptr_t* cookie) {
  (void)map, (void)cookie;
  return space == LM_ID_BASE ? LA_FLG_BINDTO | LA_FLG_BINDFROM : 0;
}

/* libslimccl_nccl.so beside us, in the program's namespace; NULL: it cannot be loaded, which has been said. */
static void* shim(void) {
  static _Atomic(void*) loaded;
  static atomic_bool failed;
  void* handle = atomic_load(&loaded);
  if (handle || atomic_load(&failed)) return handle;
  handle = dlmopen(LM_ID_BASE, "$ORIGIN/libslimccl_nccl.so", RTLD_NOW | RTLD_LOCAL);
  if (handle)
    atomic_store(&loaded, handle);
  else if (!atomic_exchange(&failed, true))
    dprintf(2, "SlimCCL WARN libslimccl_audit.so: %s: SlimCCL is off\n", dlerror());
  return handle;
}

/* A cookie is the object's link_map, as the loader gave it: that is also its handle. */
SLIM_EXPORT uintptr_t la_symbind64(Elf64_Sym* symbol, unsigned index, uintptr_t* from, uintptr_t* to, unsigned* flags,
                                   const char* name) {
  (void)index, (void)flags;
  if (strncmp(name, "nccl", 4)) return symbol->st_value;
  void* handle = shim();
  /* Without a shim; NCCL's own as the shim looks for it; the shim's own, which dlsym below finds. */
  if (!handle || (void*)*from == handle || (void*)*to == handle) return symbol->st_value;
  void* ours = dlsym(handle, name);
  return ours ? (uintptr_t)ours : symbol->st_value;
}
