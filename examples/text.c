#include "examples/text.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char licenses[] = "/usr/share/common-licenses";

static int fail(const char* path, const char* reason) {
  fprintf(stderr, "train: %s: %s\n", path, reason);
  return -1;
}

/* Appends a file's bytes and its positions. Skips a file whose bytes an earlier file had already, if `distinct`. */
static int append(Text* text, const char* path, int context, int distinct, size_t* starts) {
  FILE* file = fopen(path, "rb");
  if (!file) return fail(path, strerror(errno));
  struct stat info;
  if (fstat(fileno(file), &info) || !S_ISREG(info.st_mode)) {
    fclose(file);
    return distinct ? 0 : fail(path, "not a file");
  }
  const size_t size = (size_t)info.st_size, start = text->length;
  if (start + size > 1u << 30) {
    fclose(file);
    return fail(path, "more than 1 GiB of text");
  }
  uint8_t* codes = realloc(text->codes, start + size + 1);
  if (codes) text->codes = codes;
  uint32_t* train = realloc(text->train, (start + size + 1) * sizeof *train);
  if (train) text->train = train;
  uint32_t* valid = realloc(text->valid, (start + size + 1) * sizeof *valid);
  if (valid) text->valid = valid;
  if (!codes || !train || !valid) {
    fclose(file);
    return fail(path, "out of memory");
  }
  const size_t got = fread(codes + start, 1, size, file);
  fclose(file);
  if (got != size) return fail(path, "could not be read whole");

  for (int f = 0; distinct && f < text->files; f++) {
    const size_t end = f + 1 < text->files ? starts[f + 1] : start;
    if (end - starts[f] == size && !memcmp(codes + starts[f], codes + start, size)) return 0;
  }
  starts[text->files++] = start;
  text->length += size;
  const size_t split = start + size - size / 10;
  for (size_t p = start + (size_t)context; p < split; p++) train[text->trainCount++] = (uint32_t)p;
  for (size_t p = split + (size_t)context; p < start + size; p++) valid[text->validCount++] = (uint32_t)p;
  return 0;
}

static int compareNames(const struct dirent** a, const struct dirent** b) { return strcmp((*a)->d_name, (*b)->d_name); }

int textLoad(Text* text, const char* const* paths, int count, int context) {
  *text = (Text){0};
  struct dirent** entries = NULL;
  const int named = count > 0;
  if (!named) {
    count = scandir(licenses, &entries, NULL, compareNames);
    if (count < 0) return fail(licenses, "not found: give a text with --text FILE");
  }
  size_t* starts = malloc((size_t)(count + 1) * sizeof *starts);
  int result = starts ? 0 : fail("text", "out of memory");
  for (int f = 0; f < count && !result; f++) {
    char path[512];
    if (!named) snprintf(path, sizeof path, "%s/%s", licenses, entries[f]->d_name);
    result = append(text, named ? paths[f] : path, context, !named, starts);
  }
  for (int f = 0; !named && f < count; f++) free(entries[f]);
  free(entries);
  free(starts);
  if (!result && (!text->trainCount || !text->validCount))
    result = fail("text", "too short: the last tenth of a file must be longer than --context");

  int number[256], used[256] = {0};
  for (size_t i = 0; i < text->length; i++) used[text->codes[i]] = 1;
  for (int c = 0; c < 256; c++) number[c] = used[c] ? text->vocabulary++ : 0;
  for (size_t i = 0; i < text->length; i++) text->codes[i] = (uint8_t)number[text->codes[i]];
  if (result) textFree(text);
  return result;
}

void textFree(Text* text) {
  free(text->codes);
  free(text->train);
  free(text->valid);
  *text = (Text){0};
}
