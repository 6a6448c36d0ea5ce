"""Why a job ended: records, tracebacks, exit codes and memory events in, one cause out. Layer 3."""
