/* SLIM_STATS: what the channels did, as a table on stderr or as JSON in a file. */
#ifndef SLIM_REPORT_H_
#define SLIM_REPORT_H_

#ifdef __cplusplus
extern "C" {
#endif

/* stats: SLIM_STATS's value; "": nothing is written. A file that cannot be written is logged. who: names the process
 * in the table, e.g. "rank 0". */
void slimReport(const char* stats, const char* who);

#ifdef __cplusplus
}
#endif
#endif
