/* What is in a model, a safetensors file, a calibration archive or a GGUF file, as JSON. */
#ifndef AWQ_APP_INSPECT_H
#define AWQ_APP_INSPECT_H

#include <jansson.h>
#include <stdbool.h>

#include "awq.h"

/* NULL when something cannot be read, which has been said. */
json_t *inspect_path(awq_context *context, const char *path);

#endif
