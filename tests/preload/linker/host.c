// A program without NCCL. host | host global|local|deepbind PLUGIN | host open LIBRARY...: opens NCCL itself, the last
// library counts.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "tests/preload/linker/play.h"

int main(int argc, char** argv) {
  if (argc < 3) return 0;
  const int scope = !strcmp(argv[1], "global")     ? RTLD_GLOBAL
                    : !strcmp(argv[1], "deepbind") ? RTLD_LOCAL | RTLD_DEEPBIND
                                                   : RTLD_LOCAL;
  void* handle = NULL;
  for (int i = 2; i < argc; i++) {
    handle = dlopen(argv[i], RTLD_LAZY | scope);
    if (!handle) return fprintf(stderr, "%s\n", dlerror()), 1;
  }
  if (!strcmp(argv[1], "open")) return play(handle);
  int (*function)(void*) = (int (*)(void*))dlsym(handle, "play");
  return function(NULL);
}
