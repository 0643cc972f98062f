/* Tables: Markdown, and readable as they are. */
#ifndef SLIMCCL_EXAMPLES_TABLE_H_
#define SLIMCCL_EXAMPLES_TABLE_H_

enum { maxColumns = 12, maxCell = 512 };

typedef struct {
  char (*cells)[maxColumns][maxCell];
  int rows, columns;
} Table; /* begins as {0} */

/* Writes a cell of the last row; column 0 begins a new one. The first row is the heading. */
__attribute__((format(printf, 3, 4))) void tableCell(Table* table, int column, const char* format, ...);
/* Prints the table, the first column set left and the others right, and empties it. */
void tablePrint(Table* table);

#endif
