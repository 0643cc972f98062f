#include "plugin/preload/session.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "plugin/preload/log.h"
#include "plugin/preload/report.h"

static sig_atomic_t asked; /* by a signal; several threads may look */
static pid_t opener;

bool slimSessionOpen(slimEnvironment* e, slimPolicy** policy) {
  *policy = NULL;
  opener = getpid();
  slimResult_t result = slimEnvironmentRead(e, environ);
  if (result == slimSuccess) {
    slimLogOpen((slimLogLevel)e->debug, e->debugSubsystems, e->debugFile);
    result = slimPolicyCreate(policy, e);
  } else {
    char* const none[] = {NULL};
    char why[1024];
    snprintf(why, sizeof why, "%s", slimLastMessage());
    (void)slimEnvironmentRead(e, none);
    (void)slimFail(result, "%s", why);
  }
  if (result != slimSuccess) slimWarn("%s. SlimCCL is off", slimLastMessage());
  return result == slimSuccess;
}

void slimSessionSayUnknown(void) {
  char name[64];
  const char* nearest;
  for (int i = 0; (nearest = slimEnvironmentUnknown(environ, i, name)); i++)
    slimWarn("%s is no variable of SlimCCL: did you mean %s?", name, nearest);
}

static void onSignal(int signal) {
  (void)signal;
  __atomic_store_n(&asked, 1, __ATOMIC_RELAXED);
}

void slimSessionWatch(const slimEnvironment* e) {
  struct sigaction before;
  if (*e->stats && sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == SIG_DFL) signal(SIGUSR1, onSignal);
}

bool slimSessionAsked(void) {
  return __atomic_load_n(&asked, __ATOMIC_RELAXED) && __atomic_exchange_n(&asked, 0, __ATOMIC_RELAXED);
}

void slimSessionReport(const slimEnvironment* e, int rank, int ranks) {
  const bool own = strstr(e->stats, "%p") || strstr(e->stats, "%h"); /* each process writes a file */
  char who[64];
  if (getpid() != opener) return; /* a child has its parent's numbers */
  snprintf(who, sizeof who, "rank %d of %d", rank, ranks);
  if (rank == 0 || own) slimReport(e->stats, who);
}
