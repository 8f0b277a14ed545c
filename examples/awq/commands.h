/* The commands of the program, each defined in the file of its name. */
#ifndef AWQ_APP_COMMANDS_H
#define AWQ_APP_COMMANDS_H

#include "cli.h"

extern const struct cli_command quantize_command;
extern const struct cli_command calibrate_command;
extern const struct cli_command merge_command;
extern const struct cli_command evaluate_command;
extern const struct cli_command generate_command;
extern const struct cli_command inspect_command;
extern const struct cli_command estimate_command;
extern const struct cli_command tokenize_command;
extern const struct cli_command outliers_command;
extern const struct cli_command convert_command;
extern const struct cli_command preflight_command;
extern const struct cli_command gguf_command;
extern const struct cli_command study_command;
extern const struct cli_command bench_command;
extern const struct cli_command tune_command;

#endif
