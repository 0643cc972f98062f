/* The text that the example learns: characters as small numbers, and where one may train and where one validates. */
#ifndef SLIMCCL_EXAMPLES_TEXT_H_
#define SLIMCCL_EXAMPLES_TEXT_H_

#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint8_t* codes; /* all files, one after another; each character is its number in the vocabulary */
  size_t length;
  int vocabulary;          /* distinct characters */
  uint32_t *train, *valid; /* positions to predict: each has `context` characters of the same part before it */
  size_t trainCount, validCount;
  int files;
} Text;

/* Reads the files, or, where count is 0, the distinct files of /usr/share/common-licenses in order of their names. The
 * last 10% of each file are held out: text->valid. Returns 0, or −1 after a message on stderr. */
int textLoad(Text* text, const char* const* paths, int count, int context);
void textFree(Text* text);

#endif
