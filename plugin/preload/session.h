/* What every preload library does first and last: settings, rules, the report that SIGUSR1 asks for. */
#ifndef SLIM_SESSION_H_
#define SLIM_SESSION_H_

#include "plugin/preload/policy.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads the SLIM_* variables and the rules, and opens the log. false: there is a mistake, which has been logged; the
 * settings are then the defaults, and *policy is NULL. */
bool slimSessionOpen(slimEnvironment* environment, slimPolicy** policy);
/* Logs SLIM_* variables that are none of ours. */
void slimSessionSayUnknown(void);

/* With SLIM_STATS, and where the program has no other use for it: SIGUSR1 makes slimSessionAsked true, once. */
void slimSessionWatch(const slimEnvironment* environment);
bool slimSessionAsked(void);

/* Writes the statistics, as SLIM_STATS says, of rank of ranks. Only rank 0 does, unless each process has a file. */
void slimSessionReport(const slimEnvironment* environment, int rank, int ranks);

#ifdef __cplusplus
}
#endif
#endif
