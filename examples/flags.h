/* Command-line flags of the examples, from a table. */
#ifndef SLIMCCL_EXAMPLES_FLAGS_H_
#define SLIMCCL_EXAMPLES_FLAGS_H_

enum { maxTexts = 64 };

typedef enum { flagSwitch, flagInteger, flagNumber, flagText, flagTexts } FlagKind;

typedef struct {
  const char *name, *value, *help; /* --name value: help */
  FlagKind kind;
  void* target; /* int, int, double, const char*, array of const char*; holds the default */
  double min, max;
  int* count; /* flagTexts: how many there are, at most max */
} Flag;

/* Reads the command line into the flags' targets. Returns 0, or −1 after a message on stderr that begins with program.
 */
int flagsParse(const char* program, const Flag* flags, int count, int argc, char** argv);
/* Prints a line a flag, with the value that its target has. */
void flagsHelp(const Flag* flags, int count);

/* path as the caller meant it: relative to the folder in which `bazel run` was typed. Valid until the program ends. */
const char* callersPath(const char* path);

#endif
