#include "examples/table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tableCell(Table* table, int column, const char* format, ...) {
  if (column == 0) {
    table->cells = realloc(table->cells, (size_t)(table->rows + 1) * sizeof *table->cells);
    if (!table->cells) abort();
    memset(table->cells[table->rows++], 0, sizeof *table->cells);
  }
  if (column >= table->columns) table->columns = column + 1;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(table->cells[table->rows - 1][column], sizeof **table->cells, format, arguments);
  va_end(arguments);
}

/* Characters of UTF-8 text. */
static int widthOf(const char* s) {
  int width = 0;
  for (; *s; s++) width += ((unsigned char)*s & 0xc0) != 0x80;
  return width;
}

/* The first row is the heading; the first column is set left, the others right. */
void tablePrint(Table* table) {
  int widths[maxColumns] = {0};
  for (int r = 0; r < table->rows; r++)
    for (int c = 0; c < table->columns; c++) {
      const int width = widthOf(table->cells[r][c]);
      if (width > widths[c]) widths[c] = width;
    }
  for (int r = 0; r < table->rows; r++) {
    for (int c = 0; c < table->columns; c++) {
      const int space = widths[c] - widthOf(table->cells[r][c]);
      printf("| %*s%s%*s ", c ? space : 0, "", table->cells[r][c], c ? 0 : space, "");
    }
    puts("|");
    for (int c = 0; r == 0 && c < table->columns; c++) {
      printf(c ? "|-" : "|:");
      for (int i = 0; i < widths[c]; i++) putchar('-');
      putchar(c ? ':' : '-');
    }
    if (r == 0) puts("|");
  }
  free(table->cells);
  *table = (Table){0};
}
