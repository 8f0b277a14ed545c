/* Why something is not understood, for callers that may have something else to try before they complain. */
#ifndef AWQ_APP_REASON_H
#define AWQ_APP_REASON_H

#include <stdbool.h>

enum { REASON_SIZE = 256 };

/* Write the reason (REASON_SIZE bytes, cut to fit); returns false. */
bool refuse(char *reason, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
