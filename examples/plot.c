#include "examples/plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Okabe and Ito's colours; their yellow is left out, it is hard to see on white. */
static const char* const palette[] = {"#000000", "#0072b2", "#d55e00", "#009e73",
                                      "#cc79a7", "#e69f00", "#56b4e9", "#7a5195"};

enum {
  panelWidth = 440,
  panelHeight = 320,
  marginLeft = 76,
  marginRight = 22,
  panelTop = 104,
  panelFoot = 60, /* ticks and axis title */
  legendRow = 22,
  maxTicks = 16
};

typedef struct {
  double low, high; /* in units of the axis, or their logarithms to base 10 */
  int logarithmic;
  double tick[maxTicks];
  int ticks;
} Axis;

static int usable(double value, int logarithmic) { return isfinite(value) && (!logarithmic || value > 0); }
static double scaled(double value, int logarithmic) { return logarithmic ? log10(value) : value; }

static void addTick(Axis* axis, double at) {
  const double slack = 1e-9 * (axis->high - axis->low);
  if (axis->ticks < maxTicks && at >= axis->low - slack && at <= axis->high + slack) axis->tick[axis->ticks++] = at;
}

/* Chooses the ticks of an axis that goes from low to high; `round` widens it to whole ticks. */
static void axisTicks(Axis* axis, int wanted, int round) {
  if (!(axis->high > axis->low)) {
    axis->low -= 0.5;
    axis->high += 0.5;
  }
  if (axis->logarithmic) {
    /* Whole decades; and 2 and 5 between them where there are few. */
    const double decades = axis->high - axis->low;
    if (round && decades > 1) {
      axis->low = floor(axis->low + 0.02);
      axis->high = ceil(axis->high - 0.02);
    }
    const int step = decades > 8 ? 2 : 1;
    for (int d = (int)floor(axis->low); d <= (int)ceil(axis->high); d += step) {
      addTick(axis, d);
      if (decades < 2.5) {
        addTick(axis, d + log10(2));
        addTick(axis, d + log10(5));
      }
    }
    return;
  }
  const double raw = (axis->high - axis->low) / wanted, unit = pow(10, floor(log10(raw)));
  const double step = unit * (raw <= unit ? 1 : raw <= 2 * unit ? 2 : raw <= 5 * unit ? 5 : 10);
  if (round) {
    axis->low = floor(axis->low / step + 1e-9) * step;
    axis->high = ceil(axis->high / step - 1e-9) * step;
  }
  for (double i = ceil(axis->low / step - 1e-9); i * step <= axis->high + 1e-9 * step; i++) addTick(axis, i * step);
}

static Axis axisOf(const PlotPanel* panel, int vertical) {
  Axis axis = {.low = INFINITY, .high = -INFINITY, .logarithmic = vertical ? panel->yLog : panel->xLog};
  for (size_t s = 0; s < panel->count; s++)
    for (size_t i = 0; i < panel->series[s].count; i++) {
      const double x = panel->series[s].x[i], y = panel->series[s].y[i];
      if (!usable(x, panel->xLog) || !usable(y, panel->yLog)) continue;
      const double value = scaled(vertical ? y : x, axis.logarithmic);
      axis.low = fmin(axis.low, value);
      axis.high = fmax(axis.high, value);
    }
  if (!isfinite(axis.low)) axis.low = 0, axis.high = 1;
  if (vertical && panel->yMax > panel->yMin) {
    axis.low = scaled(panel->yMin, axis.logarithmic);
    axis.high = scaled(panel->yMax, axis.logarithmic);
  }
  axisTicks(&axis, vertical ? 6 : 5, vertical || !axis.logarithmic);
  return axis;
}

static void text(FILE* out, const char* s) {
  for (; *s; s++) {
    const char* escape = *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : *s == '&' ? "&amp;" : *s == '"' ? "&quot;" : NULL;
    if (escape) {
      fputs(escape, out);
    } else {
      fputc((unsigned char)*s < ' ' ? ' ' : *s, out);
    }
  }
}

static void label(FILE* out, double x, double y, const char* attributes, const char* s) {
  fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
  text(out, s);
  fputs("</text>\n", out);
}

/* A tick's number: 2.5, 20, 100k, 3M. */
static void tickName(char* name, size_t size, const Axis* axis, int tick) {
  double value = axis->tick[tick];
  if (axis->logarithmic) value = pow(10, value);
  const double magnitude = fabs(value);
  const char* suffix = "";
  if (magnitude >= 0.9999e9) {
    value /= 1e9, suffix = "G";
  } else if (magnitude >= 0.9999e6) {
    value /= 1e6, suffix = "M";
  } else if (magnitude >= 0.9999e4 || (axis->logarithmic && magnitude >= 0.9999e3)) {
    value /= 1e3, suffix = "k";
  }
  int decimals = 0;
  if (!axis->logarithmic && axis->ticks > 1 && !*suffix) {
    const double step = axis->tick[1] - axis->tick[0];
    while (decimals < 6 && fabs(step * pow(10, decimals) - round(step * pow(10, decimals))) > 1e-6) decimals++;
    snprintf(name, size, "%.*f", decimals, fabs(value) < 1e-9 * step ? 0 : value);
  } else {
    /* 1e-06 would be as wide as it is odd. */
    const int exponent = (int)floor(log10(magnitude) + 1e-9);
    if (axis->logarithmic && exponent < -2) {
      snprintf(name, size, "%.2ge%d", value / pow(10, exponent), exponent);
    } else {
      snprintf(name, size, "%.4g%s", value, suffix);
    }
  }
}

static const char* colorOf(const PlotSeries* series) {
  return palette[series->color <= 0 ? 0 : 1 + (series->color - 1) % 7];
}

static double clamped(double value, const Axis* axis) {
  return fmin(fmax(scaled(value, axis->logarithmic), axis->low), axis->high);
}

/* What lies between the series' low and high: there along one, and back along the other. */
static void bandWrite(FILE* out, const PlotPanel* panel, const PlotSeries* series, const Axis* x, const Axis* y,
                      double left) {
  int begun = 0;
  for (size_t i = 0; series->low && i < 2 * series->count; i++) {
    const size_t at = i < series->count ? i : 2 * series->count - 1 - i;
    const double edge = i < series->count ? series->low[at] : series->high[at];
    if (!usable(series->x[at], panel->xLog) || !usable(edge, panel->yLog)) continue;
    if (!begun) fprintf(out, "<path class=\"band\" style=\"fill:%s\" d=\"M", colorOf(series));
    fprintf(out, "%s%.1f %.1f", begun ? "L" : "",
            left + (scaled(series->x[at], panel->xLog) - x->low) * panelWidth / (x->high - x->low),
            panelTop + panelHeight - (clamped(edge, y) - y->low) * panelHeight / (y->high - y->low));
    begun = 1;
  }
  if (begun) fputs("\"/>\n", out);
}

static void panelWrite(FILE* out, const PlotPanel* panel, size_t number, double left) {
  Axis x = axisOf(panel, 0), y = axisOf(panel, 1);
  const double xScale = panelWidth / (x.high - x.low), yScale = panelHeight / (y.high - y.low);
  const double top = panelTop, bottom = panelTop + panelHeight, middle = left + panelWidth / 2.0;
  char name[64], attributes[128];

  label(out, left, top - 12, "class=\"panel\"", panel->title);
  fputs("<g class=\"grid\">\n", out);
  for (int i = 0; i < x.ticks; i++) {
    const double at = left + (x.tick[i] - x.low) * xScale;
    fprintf(out, "<path d=\"M%.1f %.1fV%.1f\"/>\n", at, bottom + 5, top);
  }
  for (int i = 0; i < y.ticks; i++) {
    const double at = bottom - (y.tick[i] - y.low) * yScale;
    fprintf(out, "<path d=\"M%.1f %.1fH%.1f\"/>\n", left - 5, at, left + panelWidth);
  }
  fputs("</g>\n", out);
  for (int i = 0; i < x.ticks; i++) {
    tickName(name, sizeof name, &x, i);
    label(out, left + (x.tick[i] - x.low) * xScale, bottom + 20, "text-anchor=\"middle\"", name);
  }
  for (int i = 0; i < y.ticks; i++) {
    tickName(name, sizeof name, &y, i);
    label(out, left - 9, bottom - (y.tick[i] - y.low) * yScale + 4, "text-anchor=\"end\"", name);
  }
  label(out, middle, bottom + 44, "text-anchor=\"middle\"", panel->xLabel);
  snprintf(attributes, sizeof attributes, "text-anchor=\"middle\" transform=\"rotate(-90 %.1f %.1f)\"", left - 60,
           top + panelHeight / 2.0);
  label(out, left - 60, top + panelHeight / 2.0, attributes, panel->yLabel);

  fprintf(out,
          "<clipPath id=\"frame%zu\"><rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\"/></clipPath>\n"
          "<g class=\"line\" clip-path=\"url(#frame%zu)\">\n",
          number, left, top, panelWidth, panelHeight, number);
  for (size_t s = 0; s < panel->count; s++) bandWrite(out, panel, &panel->series[s], &x, &y, left);
  /* The first series last, so that it lies on top. */
  for (size_t s = panel->count; s-- > 0;) {
    const PlotSeries* series = &panel->series[s];
    const char* color = colorOf(series);
    int begun = 0;
    for (size_t i = 0; i < series->count; i++) {
      if (!usable(series->x[i], panel->xLog) || !usable(series->y[i], panel->yLog)) continue;
      if (!begun) {
        fprintf(out, "<path stroke=\"%s\"%s%s d=\"M", color, series->dashed ? " stroke-dasharray=\"6 4\"" : "",
                series->color ? "" : " stroke-width=\"2.6\"");
      }
      fprintf(out, "%s%.1f %.1f", begun ? "L" : "", left + (scaled(series->x[i], panel->xLog) - x.low) * xScale,
              bottom - (scaled(series->y[i], panel->yLog) - y.low) * yScale);
      begun = 1;
    }
    if (begun) fputs("\"/>\n", out);
  }
  fprintf(out, "</g>\n<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", left, top, bottom, left + panelWidth);
}

int plotWrite(const char* path, const char* title, const char* subtitle, const PlotPanel* panels, size_t count) {
  FILE* out = fopen(path, "w");
  if (!out) return -1;
  const double stride = marginLeft + panelWidth + marginRight, width = (double)count * stride;
  const PlotPanel* first = panels;
  size_t longest = 1;
  for (size_t s = 0; count && s < first->count; s++) {
    const size_t length = strlen(first->series[s].label);
    longest = length > longest ? length : longest;
  }
  const double entry = 48 + 7.4 * (double)longest;
  size_t columns = (size_t)((width - marginLeft - marginRight) / entry);
  if (columns < 1) columns = 1;
  size_t rows = count ? (first->count + columns - 1) / columns : 0;
  if (rows) columns = (first->count + rows - 1) / rows; /* rows of about the same length */
  const double legendTop = panelTop + panelHeight + panelFoot + 14;
  const double height = legendTop + (double)rows * legendRow + 6;

  fprintf(out,
          "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" "
          "font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" font-size=\"12\" fill=\"#333\">\n"
          "<style>.title{font-size:18px;font-weight:bold;fill:#111}.sub{font-size:12.5px;fill:#555}"
          ".panel{font-size:13.5px;font-weight:bold;fill:#111}.grid path{stroke:#e3e3e3}"
          ".axis{stroke:#333;fill:none}.line path{fill:none;stroke-linejoin:round}"
          ".line path.band{stroke:none;fill-opacity:.18}</style>\n"
          "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
          width, height, width, height);
  label(out, marginLeft, 34, "class=\"title\"", title);
  label(out, marginLeft, 56, "class=\"sub\"", subtitle);
  fputs("<g stroke-width=\"1.8\" stroke=\"none\">\n", out);
  for (size_t p = 0; p < count; p++) panelWrite(out, &panels[p], p, (double)p * stride + marginLeft);
  for (size_t s = 0; count && s < first->count; s++) {
    const PlotSeries* series = &first->series[s];
    const double x = marginLeft + (double)(s % columns) * entry;
    const double y = legendTop + (double)(s / columns) * legendRow;
    fprintf(out, "<path stroke=\"%s\"%s%s d=\"M%.1f %.1fh28\"/>\n", colorOf(series),
            series->dashed ? " stroke-dasharray=\"6 4\"" : "", series->color ? "" : " stroke-width=\"2.6\"", x, y);
    label(out, x + 34, y + 4, "stroke=\"none\"", series->label);
  }
  fputs("</g>\n</svg>\n", out);
  const int failed = ferror(out);
  if (fclose(out) || failed) {
    if (!errno) errno = EIO;
    return -1;
  }
  return 0;
}
