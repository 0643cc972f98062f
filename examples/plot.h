/* Line charts as SVG: a figure of one or more panels side by side, with one legend for all. */
#ifndef SLIMCCL_EXAMPLES_PLOT_H_
#define SLIMCCL_EXAMPLES_PLOT_H_

#include <stddef.h>

typedef struct {
  const char* label; /* for the legend; series of the same place in all panels share label and style */
  const double *x, *y;
  size_t count; /* points that are not finite, or not positive on a logarithmic axis, are left out */
  int color;    /* 0 black, 1 … 7 from a palette that colour-blind people can tell apart, then again from 1 */
  int dashed;
  const double *low, *high; /* NULL, or a band around the line: as many points */
} PlotSeries;

typedef struct {
  const char *title, *xLabel, *yLabel;
  int xLog, yLog;
  double yMin, yMax; /* 0, 0: from the data; lines are cut at the frame */
  const PlotSeries* series;
  size_t count;
} PlotPanel;

/* Writes the figure to path. The legend names the first panel's series. Returns 0, or −1 with errno set. */
int plotWrite(const char* path, const char* title, const char* subtitle, const PlotPanel* panels, size_t count);

#endif
