#include "plugin/preload/dropin.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compress/compress.h"

#define NAME "libnccl.so.2"
#define MARK "SlimCCL drop-in"

/* The whole file, loaded as one writable segment (the loader writes into the dynamic section). It defines nothing, so
 * there is no hash table and only the symbol that every table begins with. */
typedef struct {
  Elf64_Ehdr header;
  Elf64_Phdr segment[3];
  Elf64_Dyn dynamic[8];
  Elf64_Sym symbol;
  char text[sizeof MARK + sizeof NAME + 2 * PATH_MAX + 2]; /* "", the mark, the name, and what is needed */
} image;

enum { kMark = 1, kName = kMark + sizeof MARK, kShim = kName + sizeof NAME }; /* in text */

/* machine: the header of a library for it. Bytes written. */
static size_t build(image* it, const Elf64_Ehdr* machine, const char* shim, const char* nccl) {
  *it = (image){0};
  memcpy(it->text + kMark, MARK, sizeof MARK);
  memcpy(it->text + kName, NAME, sizeof NAME);
  strcpy(it->text + kShim, shim);
  const size_t ncclAt = kShim + strlen(shim) + 1, length = ncclAt + strlen(nccl) + 1;
  strcpy(it->text + ncclAt, nccl);
  const size_t size = offsetof(image, text) + length;
  it->header = (Elf64_Ehdr){.e_type = ET_DYN,
                            .e_machine = machine->e_machine,
                            .e_version = EV_CURRENT,
                            .e_phoff = offsetof(image, segment),
                            .e_flags = machine->e_flags,
                            .e_ehsize = sizeof(Elf64_Ehdr),
                            .e_phentsize = sizeof(Elf64_Phdr),
                            .e_phnum = 3,
                            .e_shentsize = sizeof(Elf64_Shdr)};
  memcpy(it->header.e_ident, machine->e_ident, EI_NIDENT);
  it->header.e_ident[EI_OSABI] = ELFOSABI_NONE;
  it->segment[0] = (Elf64_Phdr){
      .p_type = PT_LOAD, .p_flags = PF_R | PF_W, .p_filesz = size, .p_memsz = size, .p_align = 0x10000 /* any page */};
  it->segment[1] = (Elf64_Phdr){.p_type = PT_DYNAMIC,
                                .p_flags = PF_R | PF_W,
                                .p_offset = offsetof(image, dynamic),
                                .p_vaddr = offsetof(image, dynamic),
                                .p_paddr = offsetof(image, dynamic),
                                .p_filesz = sizeof it->dynamic,
                                .p_memsz = sizeof it->dynamic,
                                .p_align = 8};
  it->segment[2] = (Elf64_Phdr){.p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W, .p_align = 16};
  const Elf64_Dyn dynamic[] = {{DT_SONAME, {kName}},
                               {DT_NEEDED, {kShim}}, /* searched first */
                               {DT_NEEDED, {ncclAt}},
                               {DT_STRTAB, {offsetof(image, text)}},
                               {DT_STRSZ, {length}},
                               {DT_SYMTAB, {offsetof(image, symbol)}},
                               {DT_SYMENT, {sizeof(Elf64_Sym)}},
                               {DT_NULL, {0}}};
  _Static_assert(sizeof dynamic == sizeof it->dynamic, "one array");
  memcpy(it->dynamic, dynamic, sizeof dynamic);
  return size;
}

/* The first bytes of a file. */
static size_t head(const char* path, void* out, size_t size) {
  FILE* file = fopen(path, "rb");
  const size_t n = file ? fread(out, 1, size, file) : 0;
  if (file) fclose(file);
  return n;
}

static bool isDropIn(const char* path) {
  image it;
  return head(path, &it, sizeof it) > offsetof(image, text) + kName && !memcmp(it.text + kMark, MARK, sizeof MARK);
}

/* Absolute, with the file's own name kept: a new version of the library has it too. */
static bool absolute(const char* path, char out[PATH_MAX]) {
  char folder[PATH_MAX], real[PATH_MAX];
  const char* slash = strrchr(path, '/');
  snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
  if (!realpath(folder, real)) return false;
  const char* name = slash ? slash + 1 : path;
  return snprintf(out, PATH_MAX, "%s/%s", strcmp(real, "/") ? real : "", name) < PATH_MAX && !access(out, R_OK);
}

/* path is a library for this machine that holds NCCL. */
static slimResult_t checkNccl(const char* path) {
  void* handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
  if (!handle) return slimFail(slimInvalidArgument, "%s", dlerror());
  const bool has = dlsym(handle, "ncclGetVersion") != NULL;
  dlclose(handle);
  if (!has) return slimFail(slimInvalidArgument, "%s is not NCCL: it has no ncclGetVersion", path);
  return slimSuccess;
}

slimResult_t slimMakeDropIn(const char* dir, const char* shim, const char* nccl) {
  char shimPath[PATH_MAX], ncclPath[PATH_MAX], path[PATH_MAX], temporary[PATH_MAX], link[PATH_MAX];
  if (!absolute(shim, shimPath)) return slimFail(slimInvalidArgument, "no file %s", shim);
  if (!absolute(nccl, ncclPath)) return slimFail(slimInvalidArgument, "no file %s", nccl);
  if (isDropIn(ncclPath))
    return slimFail(slimInvalidArgument, "%s is a drop-in itself: give the NCCL library behind it", ncclPath);
  SLIM_CHECK(checkNccl(ncclPath));
  Elf64_Ehdr machine;
  if (head(ncclPath, &machine, sizeof machine) != sizeof machine)
    return slimFail(slimInvalidArgument, "cannot read %s", ncclPath);

  if (mkdir(dir, 0777) && errno != EEXIST) return slimFail(slimSystemError, "cannot make %s: %s", dir, strerror(errno));
  if (snprintf(path, sizeof path, "%s/" NAME, dir) >= (int)sizeof path ||
      snprintf(temporary, sizeof temporary, "%s/." NAME ".%d", dir, (int)getpid()) >= (int)sizeof temporary)
    return slimFail(slimInvalidArgument, "%s is too long", dir);
  snprintf(link, sizeof link, "%s/libnccl.so", dir);
  if (!access(path, F_OK) && !isDropIn(path))
    return slimFail(slimInvalidUsage, "%s is there and no drop-in of SlimCCL's: give another folder", path);

  image it;
  const size_t size = build(&it, &machine, shimPath, ncclPath);
  FILE* file = fopen(temporary, "wb");
  bool written = file && fwrite(&it, 1, size, file) == size;
  if (file && fclose(file)) written = false;
  if (!written || chmod(temporary, 0755) || rename(temporary, path)) {
    const int error = errno;
    unlink(temporary);
    return slimFail(slimSystemError, "cannot write %s: %s", path, strerror(error));
  }
  if (symlink(NAME, link) && errno != EEXIST)
    return slimFail(slimSystemError, "cannot write %s: %s", link, strerror(errno));
  return slimSuccess;
}
